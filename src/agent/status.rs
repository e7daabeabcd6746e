//! Writes the status, and only if it differs from what is there: at rest nothing is written.

use std::sync::Arc;
use std::time::Duration;

use etcd_operator_api::member::{EtcdMember, EtcdMemberStatus};
use etcd_operator_client::clock;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;

/// Owner of the fields in server-side apply.
const MANAGER: &str = "etcd-operator-agent";
/// First and longest pause after a failed write.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Writes each wish that differs from the object's status. Ends when the worker does.
pub(crate) async fn write(
    api: Api<EtcdMember>,
    mut subjects: watch::Receiver<Arc<EtcdMember>>,
    mut wishes: watch::Receiver<Option<EtcdMemberStatus>>,
) {
    // What was sent last, and the object that came back.
    let mut last: Option<(EtcdMemberStatus, EtcdMember)> = None;
    let mut pause = PAUSE.0;
    loop {
        let wish = wishes.borrow_and_update().clone();
        let seen = Arc::clone(&subjects.borrow_and_update());
        let mut retry = None;
        if let Some(wish) = wish
            && differs(&wish, &seen, last.as_ref())
        {
            match apply(&api, &seen, &wish).await {
                Ok(answer) => {
                    last = Some((wish, answer));
                    pause = PAUSE.0;
                }
                Err(kube::Error::Api(error)) if error.code == 404 => {
                    tracing::debug!(member = %seen.name_any(), "EtcdMember is gone, no status written");
                }
                Err(error) => {
                    tracing::warn!(%error, member = %seen.name_any(), "status could not be written, it is tried again");
                    retry = Some(pause);
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
        let again = async {
            match retry {
                Some(pause) => clock::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = wishes.changed() => if outcome.is_err() { return },
            outcome = subjects.changed() => if outcome.is_err() { return },
            () = again => {}
        }
    }
}

/// Whether the wish must be written, given the newest that is known of the object.
fn differs(wish: &EtcdMemberStatus, seen: &EtcdMember, last: Option<&(EtcdMemberStatus, EtcdMember)>) -> bool {
    let newest = match last {
        // Our own answer may be newer than what the watch has delivered.
        Some((_, answer)) if answer.uid() == seen.uid() && version(answer) > version(seen) => answer,
        _ => seen,
    };
    if newest.status.as_ref() == Some(wish) {
        return false;
    }
    // A server that keeps less than it was sent: writing the same again and again would not help. (One with an older CRD refuses fields that it does
    // not know, and the status stays what it was: README, "Upgrade and roll back".)
    !last.is_some_and(|(sent, answer)| sent == wish && answer.uid() == newest.uid() && answer.status == newest.status)
}

fn version(member: &EtcdMember) -> u64 {
    member.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

async fn apply(api: &Api<EtcdMember>, seen: &EtcdMember, wish: &EtcdMemberStatus) -> kube::Result<EtcdMember> {
    let name = seen.name_any();
    let patch = json!({
        "apiVersion": EtcdMember::api_version(&()),
        "kind": EtcdMember::kind(&()),
        // The UID: a status must never land on an object of the same name that was made anew.
        "metadata": { "name": name, "uid": seen.uid() },
        "status": wish,
    });
    api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&patch)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn object(version: &str, nonce: &str) -> EtcdMember {
        let mut member = testing::member();
        member.metadata.uid = Some("u".into());
        member.metadata.resource_version = Some(version.into());
        member.status = Some(status(nonce));
        member
    }

    fn status(nonce: &str) -> EtcdMemberStatus {
        EtcdMemberStatus { observed_nonce: nonce.into(), ..EtcdMemberStatus::default() }
    }

    #[test]
    fn nothing_is_written_that_is_there_already() {
        assert!(!differs(&status("a"), &object("5", "a"), None));
        assert!(differs(&status("b"), &object("5", "a"), None));
        // The watch is behind our own write.
        assert!(!differs(&status("b"), &object("5", "a"), Some(&(status("b"), object("6", "b")))));
        // Somebody changed it after our write.
        assert!(differs(&status("b"), &object("7", "x"), Some(&(status("b"), object("6", "b")))));
    }

    #[test]
    fn a_server_that_drops_fields_is_not_written_to_again_and_again() {
        assert!(!differs(&status("b"), &object("6", ""), Some(&(status("b"), object("6", "")))));
        assert!(differs(&status("c"), &object("6", ""), Some(&(status("b"), object("6", "")))));
    }
}
