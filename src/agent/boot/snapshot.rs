//! A snapshot of a member, taken before anything is changed and kept on its node: the way back if all else fails.

use std::path::{Path, PathBuf};

use etcd_operator_api::member::SnapshotStatus;
use etcd_operator_etcd::client::Tls;
use etcd_operator_etcd::dial::Endpoint;

use super::Place;
use crate::files;

/// Takes the snapshot, unless this request's is there already.
pub(crate) async fn take(
    place: Place,
    pki: PathBuf,
    name: String,
    id: String,
    endpoint: String,
) -> Result<SnapshotStatus, String> {
    let file = place.snapshots.join(format!("{name}.db"));
    let record = place.snapshots.join(format!("{name}.json"));
    if let Ok(Some(done)) = files::read_json::<SnapshotStatus>(&record)
        && file.exists()
    {
        return Ok(done);
    }
    files::make_dir(&place.snapshots, 0o700).map_err(|problem| problem.message)?;
    let tls = Tls::read(&pki).map_err(|error| format!("no client certificate yet ({error}); wait for spec.certificates"))?;
    let client = place.agent.host.dial().etcd(&endpoint, &tls).await.map_err(|error| error.to_string())?;

    let temporary = files::temporary(&file);
    let outcome = stream(client.as_ref(), &temporary).await;
    let (bytes, sha256) = match outcome {
        Ok(taken) => taken,
        Err(why) => {
            // Worthless by now, and perhaps what filled the disk.
            let _ = std::fs::remove_file(&temporary);
            return Err(format!("the snapshot of {endpoint} failed: {why}"));
        }
    };
    std::fs::rename(&temporary, &file)
        .and_then(|()| files::sync_parent(&file))
        .map_err(|error| format!("cannot name {}: {error}", file.display()))?;
    // As the node names it: a human looks for it there.
    let path = place.snapshots_on_node.join(format!("{name}.db")).to_string_lossy().into_owned();
    let done = SnapshotStatus { id, path, bytes: i64::try_from(bytes).unwrap_or(i64::MAX), sha256 };
    files::write_json(&record, &done, files::SECRET).map_err(|problem| problem.message)?;
    Ok(done)
}

/// Streams into a new file that only root reads; the digest is verified on the way.
async fn stream(client: &dyn Endpoint, path: &Path) -> Result<(u64, String), String> {
    let cannot = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    files::remove_if_there(path).map_err(cannot)?;
    let mut file =
        tokio::fs::OpenOptions::new().write(true).create_new(true).mode(files::SECRET).open(path).await.map_err(cannot)?;
    let snapshot = client.snapshot(&mut file).await.map_err(|error| error.to_string())?;
    file.sync_all().await.map_err(cannot)?;
    Ok((snapshot.bytes, snapshot.sha256))
}
