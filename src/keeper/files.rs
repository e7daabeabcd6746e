//! Reading and writing the JSON files: whole or not at all, also through a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::contract::{FORMAT, State};

/// No file of ours is near this; a larger one is not read.
const MAX_FILE: u64 = 1 << 20;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// The file, whole.
    Whole(T),
    /// No file.
    Missing,
    /// Something that is no such file; why.
    Unusable(String),
}

/// Reads a JSON file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Found<T> {
    let mut text = Vec::new();
    let result = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text));
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Missing,
        Err(error) => Found::Unusable(format!("cannot be read: {error}")),
        Ok(size) if size as u64 > MAX_FILE => Found::Unusable(format!("is larger than {MAX_FILE} bytes")),
        Ok(_) => match serde_json::from_slice(&text) {
            Ok(value) => Found::Whole(value),
            Err(error) => Found::Unusable(format!("is torn or not what it should be: {error}")),
        },
    }
}

/// Writes a JSON file: beside it, fsync, rename, fsync of the directory.
///
/// # Errors
/// When any of that fails; the old file is then still there.
pub fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    text.push(b'\n');
    let (dir, name) = (path.parent(), path.file_name().and_then(|n| n.to_str()));
    let (Some(dir), Some(name)) = (dir, name) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path of a file"));
    };
    let temporary = dir.join(format!(".{name}.tmp"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(dir)
}

/// Makes renames in a directory last.
///
/// # Errors
/// When the file system fails.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The state, and the file it is kept in. Written only when something changed.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    written: Option<State>,
    /// The state as it should be.
    pub state: State,
}

/// Whether there was a state when the keeper started. Without one, nobody knows which members ran here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateAtStart {
    /// There was.
    Found,
    /// There was none, or it could not be used.
    Lost,
}

impl Store {
    /// Loads the state; what cannot be used counts as missing.
    #[must_use]
    pub fn load(path: PathBuf) -> (Self, StateAtStart) {
        let (mut state, at_start, written) = match read::<State>(&path) {
            Found::Whole(state) if state.format == FORMAT => (state.clone(), StateAtStart::Found, Some(state)),
            Found::Whole(state) => {
                tracing::error!(
                    format = state.format,
                    "the state file has a format that this keeper does not read: starting without it"
                );
                (State::default(), StateAtStart::Lost, None)
            }
            Found::Missing => (State::default(), StateAtStart::Lost, None),
            Found::Unusable(why) => {
                tracing::error!(path = %path.display(), why, "the state file cannot be used: starting without it");
                (State::default(), StateAtStart::Lost, None)
            }
        };
        state.format = FORMAT;
        state.reads_orders = vec![FORMAT];
        state.keeper_version = env!("CARGO_PKG_VERSION").to_owned();
        // Of this keeper's life, not of the last one's.
        state.etcd_pid = None;
        state.etcd_starts = 0;
        state.keeper_binary = None;
        (Self { path, written, state }, at_start)
    }

    /// Writes the state if it changed.
    ///
    /// # Errors
    /// When it cannot be written: the state on disk is then the one before.
    pub fn save(&mut self) -> io::Result<()> {
        if self.written.as_ref() == Some(&self.state) {
            return Ok(());
        }
        write(&self.path, &self.state)?;
        self.written = Some(self.state.clone());
        Ok(())
    }
}

/// Adds a word to a list that is a set.
pub fn note(list: &mut Vec<String>, word: &str) {
    if !list.iter().any(|w| w == word) {
        list.push(word.to_owned());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_state_survives_and_is_written_only_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let (mut store, found) = Store::load(path.clone());
        assert_eq!(found, StateAtStart::Lost);
        note(&mut store.state.ran_here, "a1");
        note(&mut store.state.ran_here, "a1");
        store.save().unwrap();
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        store.save().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        let (again, found) = Store::load(path.clone());
        assert_eq!((again.state.ran_here, found), (vec!["a1".to_owned()], StateAtStart::Found));
        fs::write(&path, &fs::read(&path).unwrap()[..40]).unwrap();
        assert_eq!(Store::load(path).1, StateAtStart::Lost);
    }
}
