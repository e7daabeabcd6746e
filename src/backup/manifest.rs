//! What is known of a backup: written last, it is what makes a backup of the object beside it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// `20261127T195300Z-<id>`: what both objects of a backup are called, without their endings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// When it was begun.
    pub taken: Timestamp,
    /// Of which run: lower-case letters, digits, `-`.
    pub id: String,
}

const TIME: &str = "%Y%m%dT%H%M%SZ";
/// The data's ending.
pub(crate) const DATA: &str = ".db.zst";
/// The manifest's ending.
pub(crate) const MANIFEST: &str = ".json";

impl Name {
    /// Without an ending.
    #[must_use]
    pub fn stem(&self) -> String {
        format!("{}-{}", self.taken.strftime(TIME), self.id)
    }

    /// The data.
    #[must_use]
    pub fn data(&self) -> String {
        format!("{}{DATA}", self.stem())
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> String {
        format!("{}{MANIFEST}", self.stem())
    }

    /// Of a file's or object's name; `None` = not one of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(DATA).or_else(|| name.strip_suffix(MANIFEST))?;
        let (time, id) = stem.split_once('-')?;
        let clean = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if id.is_empty() || !id.bytes().all(clean) {
            return None;
        }
        let taken = jiff::civil::DateTime::strptime(TIME, time).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        Some(Self { taken, id: id.to_owned() })
    }
}

/// What is known of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The EtcdBackup that wanted it; empty = taken by hand.
    #[serde(default)]
    pub backup: String,
    /// Of which run.
    pub id: String,
    /// The EtcdCluster; empty = not known.
    #[serde(default)]
    pub cluster: String,
    /// etcd's cluster ID, 16 hex digits.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// The member that it was taken of, 16 hex digits.
    #[serde(rename = "memberID")]
    pub member_id: String,
    /// Which life of the cluster.
    #[serde(default)]
    pub lineage: i64,
    /// etcd's version there.
    pub etcd_version: String,
    /// All up to this revision is in it, and perhaps more.
    pub revision: i64,
    /// When it was begun, RFC 3339.
    pub taken: Timestamp,
    /// The data's name beside this manifest.
    pub object: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256, hex.
    pub sha256: String,
    /// Size of etcd's snapshot in bytes, with the 32 bytes of digest at its end.
    pub db_bytes: u64,
    /// SHA-256 of the database, hex, as etcd appends it.
    pub db_sha256: String,
    /// Version of the operator that took it.
    #[serde(default)]
    pub operator_version: String,
}

impl Manifest {
    /// As it is stored.
    ///
    /// # Errors
    /// Never, with what is in it.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| Error::Damaged(error.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads one that is called `name`.
    ///
    /// # Errors
    /// `Damaged` where it is none, is of a newer format, or speaks of another object.
    pub fn read(name: &Name, json: &[u8]) -> Result<Self, Error> {
        let file = name.manifest();
        let damaged = |why: String| Error::Damaged(format!("{file}: {why}"));
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(json).map_err(|error| damaged(format!("is no manifest: {error}")))?;
        if head.format > FORMAT {
            let why = format!("is of format {}, and this program reads up to {FORMAT}: use a newer one", head.format);
            return Err(damaged(why));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(|error| damaged(format!("is no manifest: {error}")))?;
        if manifest.object != name.data() {
            return Err(damaged("speaks of another object: it was renamed or copied; give it its old name back".into()));
        }
        Ok(manifest)
    }
}

/// A time in ms since 1970.
#[must_use]
pub fn timestamp(ms: u64) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name { taken: "2026-11-27T19:53:00Z".parse().unwrap(), id: "run-1".into() }
    }

    #[test]
    fn names_are_read_as_they_are_written_and_nothing_else_is() {
        assert_eq!(name().data(), "20261127T195300Z-run-1.db.zst");
        assert_eq!(Name::parse(&name().data()), Some(name()));
        assert_eq!(Name::parse(&name().manifest()), Some(name()));
        for other in [
            "20261127T195300Z-run-1.db",
            "20261127T195300Z.json",
            "20261127T195300Z-.json",
            "20261127T195300Z-../x.json",
            "20261127T195300Z-a_b.json",
            "20261327T195300Z-a.json",
            "notes.json",
            "20261127T195300Z-run-1.db.zst#1",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_manifest_of_another_object_or_of_a_newer_format_is_refused() {
        let manifest = Manifest {
            format: FORMAT,
            backup: "nightly".into(),
            id: "run-1".into(),
            cluster: "kube-etcd".into(),
            cluster_id: "00000000000000c1".into(),
            member_id: "00000000000000a1".into(),
            lineage: 0,
            etcd_version: "3.6.16".into(),
            revision: 7,
            taken: name().taken,
            object: name().data(),
            bytes: 1,
            sha256: String::new(),
            db_bytes: 33,
            db_sha256: String::new(),
            operator_version: "0.1.0".into(),
        };
        let json = manifest.to_json().unwrap();
        assert_eq!(Manifest::read(&name(), &json).unwrap(), manifest);
        let other = Name { id: "run-2".into(), ..name() };
        assert!(Manifest::read(&other, &json).unwrap_err().to_string().contains("another object"));
        let newer = Manifest { format: FORMAT + 1, ..manifest }.to_json().unwrap();
        assert!(Manifest::read(&name(), &newer).unwrap_err().to_string().contains("format 2"));
        assert!(Manifest::read(&name(), b"{}").is_err());
        assert!(Manifest::read(&name(), &json[..40]).is_err());
    }
}
