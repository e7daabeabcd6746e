//! Where backups lie: a directory of this machine, or below a prefix of a bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as File, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, buffered::BufWriter};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::error::{Error, Reason, store};
use crate::manifest::{Manifest, Name};

/// Bytes of one part of an upload: S3 takes parts of 5 MiB and more, and 10,000 of them.
const PART: usize = 8 << 20;
/// Parts on their way at once.
const PARTS: usize = 2;
/// Manifests that are read at the same time.
const AT_ONCE: usize = 16;
/// A manifest is some hundred bytes.
const MANIFEST_LIMIT: u64 = 64 << 10;

/// A place for the backups of one EtcdBackup.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Of a directory.
    dir: Option<PathBuf>,
}

/// A backup that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its name.
    pub name: Name,
    /// What is known of it.
    pub manifest: Manifest,
}

/// What lies in a store.
#[derive(Debug, Default)]
pub struct Listed {
    /// Backups, the oldest first. Of each the data is there and has the size that the manifest says; not more was looked at.
    pub backups: Vec<Backup>,
    /// Data without a manifest: not finished, or being written.
    pub unfinished: Vec<Name>,
    /// Names and what is wrong with them.
    pub damaged: Vec<(Name, Error)>,
}

impl Listed {
    /// The newest backup.
    #[must_use]
    pub fn newest(&self) -> Option<&Backup> {
        self.backups.last()
    }
}

impl Store {
    /// A directory, which must be there. Each object is on the disk before it has its name.
    ///
    /// # Errors
    /// When it is not there.
    pub fn directory(dir: &File) -> Result<Self, Error> {
        let objects = LocalFileSystem::new_with_prefix(dir).map_err(store(format!("cannot use {}", dir.display())))?;
        Ok(Self { objects: Arc::new(objects.with_fsync(true)), prefix: Path::default(), dir: Some(dir.to_owned()) })
    }

    /// Below a prefix of an object store.
    #[must_use]
    pub fn objects(objects: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { objects, prefix, dir: None }
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    /// What a human calls it.
    fn shown(&self, name: &str) -> String {
        match &self.dir {
            Some(dir) => dir.join(name).display().to_string(),
            None => self.path(name).to_string(),
        }
    }

    /// Names of manifests, and of data with its size.
    async fn names(&self) -> Result<(BTreeSet<Name>, BTreeMap<Name, u64>), Error> {
        let prefix = (self.prefix != Path::default()).then_some(&self.prefix);
        let (mut manifests, mut data) = (BTreeSet::new(), BTreeMap::new());
        let mut objects = self.objects.list(prefix);
        while let Some(object) = objects.try_next().await.map_err(store("cannot list the backups"))? {
            // Only what lies here, not what lies below.
            let Some(file) = object.location.prefix_match(&self.prefix).map(|parts| parts.collect::<Vec<_>>()) else { continue };
            let [file] = file.as_slice() else { continue };
            let file = file.as_ref();
            match Name::parse(file) {
                Some(name) if file == name.data() => drop(data.insert(name, object.size)),
                Some(name) => drop(manifests.insert(name)),
                None => {}
            }
        }
        Ok((manifests, data))
    }

    /// What is there, oldest first.
    ///
    /// # Errors
    /// When the store does not say. One manifest that cannot be read counts as damaged.
    pub async fn list(&self) -> Result<Listed, Error> {
        let (manifests, mut data) = self.names().await?;
        let mut listed = Listed::default();
        let read = |name: Name| async move {
            let manifest = self.manifest(&name).await;
            (name, manifest)
        };
        let mut all = futures::stream::iter(manifests).map(read).buffered(AT_ONCE);
        while let Some((name, manifest)) = all.next().await {
            let size = data.remove(&name);
            match manifest {
                Ok(manifest) if size == Some(manifest.bytes) => listed.backups.push(Backup { name, manifest }),
                Ok(manifest) => {
                    let has = size.map_or_else(|| "is not there".to_owned(), |bytes| format!("has {bytes} bytes"));
                    let why = format!("{} {has}; its manifest says {}", self.shown(&name.data()), manifest.bytes);
                    listed.damaged.push((name, Error::Damaged(why)));
                }
                // Removed since it was listed, by whoever keeps fewer.
                Err(Error::Store { reason: Reason::StoreMissing, .. }) => {}
                Err(error) => listed.damaged.push((name, error)),
            }
        }
        listed.unfinished.extend(data.into_keys());
        Ok(listed)
    }

    /// The backup of a run, if it is there.
    pub(crate) async fn of_run(&self, id: &str) -> Result<Option<Backup>, Error> {
        let (manifests, data) = self.names().await?;
        for name in manifests.into_iter().filter(|name| name.id == id) {
            let manifest = self.manifest(&name).await?;
            if data.get(&name) == Some(&manifest.bytes) {
                return Ok(Some(Backup { name, manifest }));
            }
        }
        Ok(None)
    }

    async fn manifest(&self, name: &Name) -> Result<Manifest, Error> {
        let file = name.manifest();
        let failed = || format!("cannot read {}", self.shown(&file));
        let got = self.objects.get(&self.path(&file)).await.map_err(store(failed()))?;
        if got.meta.size > MANIFEST_LIMIT {
            return Err(Error::Damaged(format!("{} has {} bytes: no manifest", self.shown(&file), got.meta.size)));
        }
        Manifest::read(name, &got.bytes().await.map_err(store(failed()))?)
    }

    /// The data of a backup, as it is stored.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn read(&self, name: &Name) -> Result<impl AsyncRead + Send + Unpin + use<>, Error> {
        let file = name.data();
        let got = self.objects.get(&self.path(&file)).await.map_err(store(format!("cannot read {}", self.shown(&file))))?;
        Ok(StreamReader::new(Box::pin(got.into_stream().map_err(std::io::Error::other))))
    }

    /// For the data of a backup; nothing is there before it is shut down.
    pub(crate) fn writer(&self, name: &Name) -> BufWriter {
        BufWriter::with_capacity(Arc::clone(&self.objects), self.path(&name.data()), PART).with_max_concurrency(PARTS)
    }

    /// Makes a backup of what was written.
    pub(crate) async fn commit(&self, name: &Name, manifest: &Manifest) -> Result<(), Error> {
        let file = name.manifest();
        let content = Bytes::from(manifest.to_json()?);
        let put = self.objects.put(&self.path(&file), content.into()).await;
        put.map(drop).map_err(store(format!("cannot write {}", self.shown(&file))))
    }

    /// Removes a backup: first its manifest, so that no manifest speaks of what is not there.
    ///
    /// # Errors
    /// When the store refuses. What is gone already is no error.
    pub async fn remove(&self, name: &Name) -> Result<(), Error> {
        for file in [name.manifest(), name.data()] {
            match self.objects.delete(&self.path(&file)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(store(format!("cannot remove {}", self.shown(&file)))(error)),
            }
        }
        Ok(())
    }

    /// Files of a directory that were being written when their process died: `<name>.db.zst#<n>`, which no list shows.
    pub(crate) fn staged(&self) -> Result<Vec<(PathBuf, Name)>, Error> {
        let Some(dir) = &self.dir else { return Ok(Vec::new()) };
        let cannot = |error: std::io::Error| Error::Config(format!("cannot list {}: {error}", dir.display()));
        let mut staged = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            let file = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('#'));
            if let Some((name, _)) = file
                && let Some(name) = Name::parse(name)
            {
                staged.push((path, name));
            }
        }
        Ok(staged)
    }
}
