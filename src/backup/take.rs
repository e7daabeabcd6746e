//! Taking a backup.

use std::time::Duration;

use async_compression::Level;
use async_compression::tokio::write::ZstdEncoder;
use etcd_operator_etcd::client::{MemberStatus, Snapshot};
use etcd_operator_etcd::dial::Endpoint;
use etcd_operator_etcd::ids::ClusterId;
use jiff::Timestamp;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{Error, of_io};
use crate::manifest::{FORMAT, Manifest, Name};
use crate::retain::{Keep, surplus};
use crate::room::Room;
use crate::store::{Backup, Store};
use crate::stream::{Counted, Meter, Progress, prove};

/// zstd's own default: a database of Kubernetes objects becomes a fifth, some 300 MB/s on one core.
const LEVEL: i32 = 3;
/// For etcd's answers before the stream.
const ASK: Duration = Duration::from_secs(5);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Order {
    /// The EtcdBackup.
    pub backup: String,
    /// Of which run: letters, digits, `-`.
    pub id: String,
    /// The EtcdCluster.
    pub cluster: String,
    /// Only of this etcd cluster.
    pub cluster_id: Option<ClusterId>,
    /// Which life of it.
    pub lineage: i64,
    /// How long it may take.
    pub limit: Duration,
    /// Of the operator.
    pub operator_version: String,
}

/// Takes a backup of a member, proves it by reading it again, and only then gives it its manifest. One of the same run that is there already
/// is taken for it. No other is removed here ([`clear`]).
///
/// # Errors
/// When the member is not fit to be backed up, etcd or the store fail, it takes too long, or what was stored is not what was read. Nothing counts
/// as a backup then, and what was written is taken away again if the store lets us.
pub async fn take(
    etcd: &dyn Endpoint,
    place: &Store,
    room: &dyn Room,
    order: &Order,
    now: Timestamp,
    progress: &Progress,
) -> Result<Backup, Error> {
    let until = Instant::now() + order.limit;
    let late = |_| Error::Late(order.limit.as_secs());
    if let Some(there) = timeout_at(until, place.of_run(&order.id)).await.map_err(late)?? {
        return Ok(there);
    }
    let status = timeout_at(until, fit(etcd, order)).await.map_err(late)??;
    let db_size = u64::try_from(status.db_size).unwrap_or(0);
    room.check(db_size).map_err(Error::Room)?;
    progress.begin(db_size);

    // Whole seconds, as in its name.
    let taken = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let name = Name { taken, id: order.id.clone() };
    let meter = Meter::new(place.writer(&name), room);
    let mut encoder = ZstdEncoder::with_quality(meter, Level::Precise(LEVEL));
    let streamed = {
        let mut out = Counted { inner: &mut encoder, progress };
        timeout_at(until, etcd.snapshot(&mut out)).await
    };
    let streamed = match streamed.map_err(late).and_then(|streamed| streamed.map_err(Error::Etcd)) {
        Ok(snapshot) => match timeout_at(until, encoder.shutdown()).await {
            Ok(Ok(())) => Ok(snapshot),
            Ok(Err(error)) => Err(of_io("cannot write the backup", &error)),
            Err(elapsed) => Err(late(elapsed)),
        },
        Err(error) => Err(error),
    };
    let finished = match streamed {
        Ok(snapshot) => {
            let (bytes, sha256) = encoder.get_ref().sum();
            drop(encoder);
            let proof = proven(place, &name, progress, (bytes, sha256, &snapshot));
            let proof = timeout_at(until, proof).await.map_err(late).and_then(|proof| proof);
            proof.map(|(bytes, sha256)| (snapshot, bytes, sha256))
        }
        Err(error) => {
            let meter = encoder.get_mut();
            if !meter.is_finishing {
                // What a bucket holds of an upload that was not finished costs money.
                let _ = timeout(ASK, meter.inner.abort()).await;
            }
            Err(meter.stopped.take().unwrap_or(error))
        }
    };
    let committed = match finished {
        Ok((snapshot, bytes, sha256)) => {
            let manifest = Manifest {
                format: FORMAT,
                backup: order.backup.clone(),
                id: order.id.clone(),
                cluster: order.cluster.clone(),
                cluster_id: status.cluster_id.to_string(),
                member_id: status.member_id.to_string(),
                lineage: order.lineage,
                etcd_version: status.version,
                revision: status.revision,
                taken,
                object: name.data(),
                bytes,
                sha256,
                db_bytes: snapshot.bytes,
                db_sha256: snapshot.sha256,
                operator_version: order.operator_version.clone(),
            };
            place.commit(&name, &manifest).await.map(|()| manifest)
        }
        Err(error) => Err(error),
    };
    match committed {
        Ok(manifest) => Ok(Backup { name, manifest }),
        Err(error) => {
            // Data without a manifest: nobody would look for it.
            let _ = timeout(ASK, place.remove(&name)).await;
            Err(error)
        }
    }
}

/// Reads what was written again: its size and its SHA-256.
async fn proven(
    place: &Store,
    name: &Name,
    progress: &Progress,
    (bytes, sha256, snapshot): (u64, String, &Snapshot),
) -> Result<(u64, String), Error> {
    progress.begin(snapshot.bytes);
    let proven = prove(place.read(name).await?, &mut Counted { inner: tokio::io::sink(), progress }).await?;
    if (proven.bytes, &proven.sha256, &proven.db_sha256) == (bytes, &sha256, &snapshot.sha256) {
        return Ok((bytes, sha256));
    }
    let why = format!("{} was written with SHA-256 {sha256} and read with {}", name.data(), proven.sha256);
    Err(Error::Damaged(format!("{why}: the store alters what it is given")))
}

/// A member whose data is that of the cluster: it is part of a quorum, as a linearizable read through it shows, and nothing accuses its store.
async fn fit(etcd: &dyn Endpoint, order: &Order) -> Result<MemberStatus, Error> {
    let members = etcd.member_list(ASK).await?;
    let status = etcd.status(ASK).await?;
    if let Some(wanted) = order.cluster_id.filter(|id| *id != members.cluster_id) {
        let why =
            format!("{} is of cluster {:016x}, and a backup of {:016x} is wanted", etcd.url(), members.cluster_id.0, wanted.0);
        return Err(Error::Source(why));
    }
    if status.is_learner {
        return Err(Error::Source(format!("{} is a learner: it may not have all data yet", etcd.url())));
    }
    if !status.accused().is_empty() {
        let why = format!("etcd has the alarm CORRUPT: which store is right is not known ({})", status.errors.join("; "));
        return Err(Error::Corrupt(why));
    }
    Ok(status)
}

/// Which of the backups in a place are one's own: others may have theirs beside them.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// The EtcdBackup.
    pub backup: &'a str,
    /// Only of this etcd cluster (hex ID); `None` = of all that the EtcdBackup ever had: nobody else writes there, and what is unfinished was left
    /// by a process that died.
    pub cluster_id: Option<&'a str>,
}

/// Removes what is more than is wanted, but never `spare`, and what was left unfinished. Returns how many backups are left.
///
/// # Errors
/// When the store does not list or remove; what is wanted is never touched.
pub async fn clear(place: &Store, whose: Whose<'_>, keep: Keep, spare: Option<&Name>, now: Timestamp) -> Result<usize, Error> {
    let listed = place.list().await?;
    let is_own = |backup: &&Backup| {
        let manifest = &backup.manifest;
        manifest.backup == whose.backup && whose.cluster_id.is_none_or(|id| id == manifest.cluster_id)
    };
    let own: Vec<&Backup> = listed.backups.iter().filter(is_own).collect();
    let gone = surplus(own.iter().map(|backup| (&backup.name, backup.manifest.cluster_id.as_str())), keep, spare, now);
    for name in &gone {
        place.remove(name).await?;
    }
    let grace = if whose.cluster_id.is_none() { Duration::ZERO } else { UNFINISHED };
    let is_over = |name: &Name| Duration::try_from(now.duration_since(name.taken)).unwrap_or_default() >= grace;
    for name in listed.unfinished.iter().filter(|name| is_over(name)) {
        place.remove(name).await?;
    }
    for (file, name) in place.staged()? {
        if is_over(&name) {
            std::fs::remove_file(&file).map_err(|error| Error::Config(format!("cannot remove {}: {error}", file.display())))?;
        }
    }
    Ok(own.len() - gone.len())
}

/// Nobody's backup takes longer.
const UNFINISHED: Duration = Duration::from_secs(7 * 86_400);
