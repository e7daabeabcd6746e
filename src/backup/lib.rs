//! Backups of etcd: taken as a stream in constant memory, proven by reading them again, named by a manifest that is written last.
//!
//! A backup is two objects side by side, `<time>-<id>.db.zst` and `<time>-<id>.json`. What has no manifest is no backup. All stores are the
//! same here: a directory on a node is one, too.

mod error;
mod manifest;
mod retain;
mod room;
mod s3;
mod store;
mod stream;
mod take;

pub use error::{Error, Reason};
pub use manifest::{FORMAT, Manifest, Name, timestamp};
pub use retain::Keep;
pub use room::{DiskRoom, NoLimit, Room};
pub use s3::{Credentials, S3};
pub use store::{Backup, Listed, Store};
pub use stream::{Progress, Proven, prove};
pub use take::{Order, Whose, clear, take};
