//! Is the data directory on the disk it was on? (F34, traps: a hostPath of type DirectoryOrCreate, and containerd itself, make an empty
//! directory when a disk is late; etcd on it would look like a member that lost its data.)
//!
//! Two witnesses: a marker file *on* the disk with a random word, and that word with the file system's `f_fsid` in the agent's notes
//! *off* the disk. Either one proves the disk. The directory is only ever made at the first set-up or on the recorded file system.

use std::fs;

use etcd_operator_keeper::contract::Paths;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::node::notes;
use crate::problem::{Problem, Reason};

/// The agent's note about the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// `f_fsid`, hex.
    file_system: String,
    /// Content of the marker.
    marker: String,
}

/// Makes sure that the data directory exists on its own disk. Returns the file system's ID.
pub(crate) fn prepare(paths: &Paths) -> Result<String, Problem> {
    let record_file = notes(paths).join("disk.json");
    let record: Option<Record> = files::read_json(&record_file)?;
    let current = files::file_system(&paths.data)?;
    let marker = files::read(&paths.marker())?.map(|content| String::from_utf8_lossy(&content).trim().to_owned());

    let known = match &record {
        None => {
            let foreign = marker.is_none() && !is_empty(paths)?;
            if foreign {
                return Err(Problem::new(
                    Reason::DataDirNotOurs,
                    format!("{} is not empty and was not made by this operator; move what is in it away", paths.data.display()),
                ));
            }
            // A marker without a record: the notes' disk was replaced, the data's was not. Keep the word that is there.
            marker.clone().filter(|word| !word.is_empty())
        }
        Some(record) if marker.as_deref() == Some(record.marker.as_str()) || record.file_system == current => {
            Some(record.marker.clone())
        }
        Some(record) => {
            return Err(Problem::new(
                Reason::DiskMissing,
                format!(
                    "{} is on file system {current}, its data is on {} and the marker is not there: mount that disk; if it is lost for good, see the runbook (DiskMissing; the record is {})",
                    paths.data.display(),
                    record.file_system,
                    record_file.display()
                ),
            ));
        }
    };
    let word = match known {
        Some(word) => word,
        None => files::random_hex(16)?,
    };

    let wanted = Record { file_system: current.clone(), marker: word.clone() };
    if record.as_ref() != Some(&wanted) {
        // Recorded before the directory is used: a crash in between leaves an empty directory on the recorded file system.
        files::make_dir(&notes(paths), 0o700)?;
        files::write_json(&record_file, &wanted, files::SECRET)?;
    }
    files::make_dir(&paths.data, 0o700)?;
    if marker.as_deref() != Some(word.as_str()) {
        files::write(&paths.marker(), word.as_bytes(), files::SECRET)?;
    }
    Ok(current)
}

fn is_empty(paths: &Paths) -> Result<bool, Problem> {
    match fs::read_dir(&paths.data) {
        // A file system's own directory, or one that a crash of ours left, is nothing.
        Ok(entries) => Ok(entries.flatten().all(|entry| {
            let name = entry.file_name();
            name == "lost+found" || name.to_string_lossy().ends_with(".tmp")
        })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Problem::file("read", &paths.data, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn paths(root: &Path) -> Paths {
        Paths::new(&root.join("operator"), &root.join("data"), "ns", "c")
    }

    fn claim_another_file_system(paths: &Paths) {
        let file = notes(paths).join("disk.json");
        let mut record: Record = files::read_json(&file).unwrap().unwrap();
        record.file_system = "00000000deadbeef".into();
        files::write_json(&file, &record, files::SECRET).unwrap();
    }

    #[test]
    fn the_first_set_up_makes_directory_marker_and_record() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let id = prepare(&paths).unwrap();
        assert!(paths.marker().exists());
        assert_eq!(prepare(&paths).unwrap(), id);
    }

    #[test]
    fn a_directory_with_somebody_elses_data_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        fs::create_dir_all(paths.data.join("member")).unwrap();
        assert_eq!(prepare(&paths).unwrap_err().reason, Reason::DataDirNotOurs);
        assert!(!paths.marker().exists());
    }

    #[test]
    fn a_late_disk_is_waited_for_and_nothing_is_made_on_the_mount_point() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        prepare(&paths).unwrap();
        // The disk with the data is gone: an empty mount point of another file system.
        claim_another_file_system(&paths);
        fs::remove_dir_all(&paths.data).unwrap();
        fs::create_dir_all(&paths.data).unwrap();
        assert_eq!(prepare(&paths).unwrap_err().reason, Reason::DiskMissing);
        assert!(!paths.marker().exists());
    }

    #[test]
    fn the_marker_proves_the_disk_when_its_number_changed() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let id = prepare(&paths).unwrap();
        claim_another_file_system(&paths);
        assert_eq!(prepare(&paths).unwrap(), id);
        // And the new number is recorded.
        fs::remove_file(paths.marker()).unwrap();
        prepare(&paths).unwrap();
    }

    #[test]
    fn a_wiped_directory_on_the_recorded_file_system_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        prepare(&paths).unwrap();
        fs::remove_dir_all(&paths.data).unwrap();
        prepare(&paths).unwrap();
        assert!(paths.marker().exists());
    }
}
