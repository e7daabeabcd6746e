//! The tombstone: boot's manifest archived, its data kept under another name, and a file in the data's place, so that an etcd that is
//! started there again refuses. Boot on an *empty* directory would be a second cluster on an address that API servers still list.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_operator_api::member::{BootDrain, BootDrainStep};
use serde::{Deserialize, Serialize};

use super::Place;
use super::drain::{self, Listed, Until};
use super::find::{self, DataPlace};
use crate::files;
use crate::problem::{Problem, Reason};

/// What the data's new name ends in.
const SUFFIX: &str = "removed-by-etcd-operator";
/// What stands in the file that takes its place.
const TEXT: &str = "This was the data directory of the etcd that the cluster was started with. Its members have moved to the control nodes and this one
was removed, so it must not start again: on an empty directory it would be a second cluster at an address that API servers may still
list. The data is kept beside this file, with the suffix .removed-by-etcd-operator. Both may be deleted once nothing lists the address.
";
/// For the members' word that boot is removed.
const ASK: Duration = Duration::from_secs(3);

/// The note that a tombstone was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The order's ID.
    pub(super) id: String,
}

pub(super) fn note_file(dir: &Path) -> PathBuf {
    dir.join("tombstone.json")
}

/// Sets the tombstone.
pub(super) async fn set(place: Place, id: String, endpoint: SocketAddr, ordered: Option<BootDrain>) -> Result<Note, String> {
    let text = |problem: Problem| problem.message;
    if let Some(note) = files::read_json::<Note>(&note_file(&place.dir)).map_err(text)?
        && note.id == id
    {
        return Ok(note);
    }
    confirm(&place, ordered).await?;
    tokio::task::spawn_blocking(move || lay(&place, id, endpoint)).await.map_err(|error| error.to_string())?.map_err(text)
}

/// Not while boot may still be a member: its data would be taken away under it. Who the others are is known from the drain's order,
/// also from one that was taken back; without any it is the controller's word that counts (boot was dead, or removed alive).
async fn confirm(place: &Place, ordered: Option<BootDrain>) -> Result<(), String> {
    let journal = drain::journal(place).map_err(|problem| problem.message)?;
    if journal.as_ref().is_some_and(|journal| journal.step == BootDrainStep::Gone) {
        return Ok(());
    }
    let Some(order) = ordered.or(journal.map(|journal| journal.drain)) else { return Ok(()) };
    match drain::others(place, &order).await?.ask(ASK, Until::Any).await {
        Listed::No => Ok(()),
        Listed::Yes => Err("boot is still a member, so no tombstone was set; remove it first".into()),
        Listed::Unknown => {
            Err("no other member says whether boot is still one, so no tombstone was set; it is tried again".into())
        }
    }
}

/// Whether a tombstone could be laid, before anything is changed: afterwards is too late to find out. Writes nothing that stays.
pub(super) fn could_lay(place: &Place, endpoint: SocketAddr) -> Result<String, String> {
    let pod = find::pod(&place.static_pods, endpoint).map_err(|problem| problem.message)?;
    // That boot is no static pod is told by who needs to know; what lies in the pod goes with it.
    let Some(DataPlace::Node(data)) = pod.map(|pod| pod.data) else { return Ok("boot keeps no data on this node".into()) };
    let (shown, here) = (data.display(), place.reach(&data));
    let probe = here.join(".etcd-operator-preflight.tmp");
    fs::read_dir(&here)
        .and_then(|_| fs::write(&probe, b""))
        .and_then(|()| fs::remove_file(&probe))
        .map(|()| format!("boot's data {shown} can be put away"))
        .map_err(|error| {
            format!(
                "boot's data {shown} cannot be reached and written by the agent ({error}), so boot could not be kept from starting again after the pivot; mount it into the agent's pod (deploy/agent.yaml, volume boot-data), and let boot run as root"
            )
        })
}

fn lay(place: &Place, id: String, endpoint: SocketAddr) -> Result<Note, Problem> {
    // Read before it goes away; an earlier attempt may have archived it already.
    let pod = match find::pod(&place.static_pods, endpoint)? {
        Some(pod) => Some(pod),
        None => find::pod(&place.manifest_archive(), endpoint)?,
    };
    drain::archive_manifest(place, endpoint)?;
    match pod.map(|pod| pod.data) {
        Some(DataPlace::Node(data)) => bury(place, &data)?,
        // It went with the pod.
        Some(DataPlace::Pod) => {}
        None => {
            return Err(Problem::new(
                Reason::NodeFiles,
                format!(
                    "no manifest of boot in {} or in its archive, so where its data is is not known; move boot's data directory away by hand and put a file in its place",
                    place.static_pods.display()
                ),
            ));
        }
    }
    let note = Note { id };
    files::make_dir(&place.dir, 0o700)?;
    files::write_json(&note_file(&place.dir), &note, files::SECRET)?;
    Ok(note)
}

/// Takes the whole data directory away, or, where that cannot be, `member` in it, without which etcd does not start either: kubeadm's
/// etcd has its data right in the directory below which ours is; and what is a mount point of the agent's pod cannot be renamed.
fn bury(place: &Place, on_node: &Path) -> Result<(), Problem> {
    let whole = place.reach(on_node);
    let part = whole.join("member");
    let ours_is_below = place.data_root_on_node.starts_with(on_node);
    // A crash may have come between the two halves of the second way.
    let begun = part.is_file() || (!part.exists() && kept(&part)?.1 > 0);
    if !ours_is_below && !begun {
        match lay_over(&whole) {
            Ok(()) => return Ok(()),
            Err(problem) if part.exists() => {
                tracing::debug!(%problem, "boot's data directory stays, only what is in it is moved")
            }
            Err(problem) => return Err(problem),
        }
    }
    lay_over(&part)
}

/// Renames a directory and puts a file in its place. Where there is neither, only the file.
fn lay_over(victim: &Path) -> Result<(), Problem> {
    if !victim.parent().is_some_and(Path::is_dir) {
        return Err(Problem::new(
            Reason::NodeFiles,
            format!(
                "boot's data {} cannot be reached by the agent; mount it into the agent's pod, or move it away by hand and put a file in its place",
                victim.display()
            ),
        ));
    }
    if victim.is_dir() {
        let (name, _) = kept(victim)?;
        fs::rename(victim, &name).map_err(|error| Problem::file("rename", victim, &error))?;
        tracing::info!(data = %victim.display(), kept = %name.display(), "boot's data kept under another name");
    }
    if !victim.exists() {
        files::write(victim, TEXT.as_bytes(), files::PUBLIC)?;
    }
    Ok(())
}

/// The first free name for what is kept, and how many are taken.
fn kept(victim: &Path) -> Result<(PathBuf, usize), Problem> {
    let name = victim.file_name().unwrap_or_default().to_string_lossy();
    (0..100)
        .map(|n| (victim.with_file_name(if n == 0 { format!("{name}.{SUFFIX}") } else { format!("{name}.{SUFFIX}.{n}") }), n))
        .find(|(path, _)| !path.exists())
        .ok_or_else(|| Problem::new(Reason::NodeFiles, format!("too many old copies of {}; remove some", victim.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(data: &Path) -> String {
        format!(
            "{{kind: Pod, spec: {{containers: [{{name: etcd, command: [etcd, --listen-client-urls=https://192.0.2.10:12379, --data-dir=/data], volumeMounts: [{{name: d, mountPath: /data}}]}}], volumes: [{{name: d, hostPath: {{path: \"{}\"}}}}]}}}}",
            data.display()
        )
    }

    fn endpoint() -> SocketAddr {
        "192.0.2.10:12379".parse().unwrap()
    }

    #[test]
    fn boots_data_is_kept_and_a_file_takes_its_place() {
        let root = tempfile::tempdir().unwrap();
        let place = super::super::tests::place(root.path());
        let data = root.path().join("boot-etcd");
        fs::create_dir_all(data.join("member")).unwrap();
        fs::write(place.static_pods.join("boot.yaml"), pod(&data)).unwrap();
        lay(&place, "t1".into(), endpoint()).unwrap();
        assert!(data.is_file());
        assert!(root.path().join(format!("boot-etcd.{SUFFIX}/member")).is_dir());
        assert!(!place.static_pods.join("boot.yaml").exists());
        // Again, as after a crash before the note: nothing more happens.
        lay(&place, "t1".into(), endpoint()).unwrap();
        assert!(data.is_file());
    }

    #[test]
    fn whether_it_can_be_laid_is_known_before() {
        let root = tempfile::tempdir().unwrap();
        let place = super::super::tests::place(root.path());
        assert!(could_lay(&place, endpoint()).is_ok());
        let data = root.path().join("boot-etcd");
        fs::write(place.static_pods.join("boot.yaml"), pod(&data)).unwrap();
        let why = could_lay(&place, endpoint()).unwrap_err();
        assert!(why.contains("deploy/agent.yaml") && why.contains("boot-etcd"), "{why}");
        fs::create_dir_all(&data).unwrap();
        could_lay(&place, endpoint()).unwrap();
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    }

    #[test]
    fn our_own_data_below_boots_directory_stays() {
        let root = tempfile::tempdir().unwrap();
        let place = super::super::tests::place(root.path());
        let data = place.data_root_on_node.clone();
        fs::create_dir_all(data.join("member")).unwrap();
        fs::create_dir_all(data.join("etcd-system/kube-etcd/cp1-1")).unwrap();
        fs::write(place.static_pods.join("boot.yaml"), pod(&data)).unwrap();
        lay(&place, "t1".into(), endpoint()).unwrap();
        assert!(data.join("etcd-system/kube-etcd/cp1-1").is_dir());
        assert!(data.join("member").is_file());
    }

    #[test]
    fn a_directory_that_cannot_be_renamed_loses_what_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        let place = super::super::tests::place(root.path());
        let data = root.path().join("boot-etcd");
        fs::create_dir_all(data.join("member")).unwrap();
        // As a mount point would: every free name is taken, so the directory itself stays.
        for n in 0..100 {
            let name = if n == 0 { format!("boot-etcd.{SUFFIX}") } else { format!("boot-etcd.{SUFFIX}.{n}") };
            fs::create_dir(root.path().join(name)).unwrap();
        }
        bury(&place, &data).unwrap();
        assert!(data.join("member").is_file());
        assert!(data.join(format!("member.{SUFFIX}")).is_dir());
        // Again, also after a crash between rename and file.
        bury(&place, &data).unwrap();
        fs::remove_file(data.join("member")).unwrap();
        bury(&place, &data).unwrap();
        assert!(data.join("member").is_file());
    }

    #[test]
    fn data_that_cannot_be_reached_is_said_and_no_tombstone_is_claimed() {
        let root = tempfile::tempdir().unwrap();
        let place = super::super::tests::place(root.path());
        fs::write(place.static_pods.join("boot.yaml"), pod(&root.path().join("missing/boot"))).unwrap();
        assert!(lay(&place, "t1".into(), endpoint()).is_err());
        assert!(!note_file(&place.dir).exists());
        // The manifest is away all the same, and the next attempt finds the data through the archive.
        fs::create_dir_all(root.path().join("missing/boot")).unwrap();
        lay(&place, "t1".into(), endpoint()).unwrap();
        assert!(root.path().join("missing/boot").is_file());
    }
}
