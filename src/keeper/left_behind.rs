//! What removed members of this node have left: a seat that is given to the same node again soon has its order replaced before the keeper has
//! read that the old member's data is to be archived.

use std::fs;

use etcd_operator_etcd::client::Members;
use etcd_operator_etcd::ids::ClusterId;
use etcd_operator_etcd::wal::{self, DataDir};

use crate::contract::Paths;
use crate::disk;

/// Moves into the archive what belongs to a member that this very cluster does not list any more, or to a life of it that is over, as
/// this node was told. Everything else stays where it is: another cluster's data, damaged data, what cannot be moved. Nothing depends on it.
pub fn archive(paths: &Paths, own: &str, members: &Members, ended: &[String], limit: u64) {
    let cluster = members.cluster_id.to_string();
    let is_over = |of: ClusterId| !ended.contains(&cluster) && ended.contains(&of.to_string());
    let entries = match fs::read_dir(&paths.data) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, "what removed members have left cannot be looked for");
            return;
        }
    };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let Some(name) = name.to_str().filter(|name| *name != own && path != paths.archive()) else { continue };
        let Ok(DataDir::Intact(owner)) = wal::classify(&path) else { continue };
        let is_removed = owner.cluster == members.cluster_id && members.members.iter().all(|m| m.id != owner.member);
        if !is_removed && !is_over(owner.cluster) {
            continue;
        }
        match disk::archive(paths, name, limit) {
            Ok(to) => {
                tracing::warn!(member = %owner.member, to = %to.display(), "data of a removed member moved into the archive")
            }
            Err(error) => {
                tracing::warn!(member = %owner.member, %error, "data of a removed member cannot be moved into the archive")
            }
        }
    }
}
