//! Whether a member's data is really gone. That it is costs the member its place at once, so a word from before is not enough: an agent that was cut
//! off, or replaced, may have left it in the API while a human put the data back. It is asked anew, and its answer must still say so.

use etcd_operator_api::member::EtcdMember;
use etcd_operator_etcd::client::MemberStatus;
use etcd_operator_etcd::ids::MemberId;
use etcd_operator_plan::{DATA_IS_CORRUPT, DATA_IS_GONE};

use super::memory::Memory;
use super::observe::{View, is_fresh};
use super::{Context, ControllerError, members};

fn is_loss(reason: &str) -> bool {
    DATA_IS_GONE.contains(&reason) || reason == DATA_IS_CORRUPT
}

/// The member whose data the keeper of this seat misses, or etcd does not run on.
fn claimed(member: &EtcdMember) -> Option<MemberId> {
    let keeper = member.status.as_ref()?.keeper.as_ref()?;
    let is_gone = keeper.phase == "Refused" && is_loss(&keeper.reason);
    is_gone.then_some(())?;
    member.spec.seat.as_ref()?.order.member_id.as_deref()?.parse().ok()
}

/// Whether a keeper's word of a loss still has to be asked for.
pub(crate) fn is_unproven(memory: &Memory, member: &EtcdMember, reason: &str) -> bool {
    let proven = || claimed(member).and_then(|id| memory.losses.get(&id.0)).is_some_and(|(_, is_proven)| *is_proven);
    is_loss(reason) && !proven()
}

/// Asks where a loss is claimed of a listed member that is not healthy; notes what came back. Returns how many objects were written.
pub(crate) async fn ensure(context: &Context, view: &View, memory: &mut Memory) -> Result<usize, ControllerError> {
    let Ok(reading) = &view.etcd else { return Ok(0) };
    let is_ill = |id: MemberId| {
        let listed = reading.members.iter().find(|(m, _)| m.id == id);
        listed.is_some_and(|(_, s)| !s.as_ref().is_some_and(MemberStatus::is_healthy))
    };
    let claims: Vec<(MemberId, &EtcdMember)> =
        view.seats().into_iter().filter_map(|m| Some((claimed(m).filter(|id| is_ill(*id))?, m))).collect();
    memory.losses.retain(|known, _| claims.iter().any(|(id, _)| id.0 == *known));
    let mut written = 0;
    for (id, member) in claims {
        match memory.losses.get_mut(&id.0) {
            // Whatever was asked since, as its clients are counted: the answer is as new.
            Some((before, is_proven)) => *is_proven = *is_proven || (member.spec.nonce != *before && is_fresh(member)),
            None => {
                let nonce = members::ask("loss", view.now_ms);
                members::change(context, member, |spec| spec.nonce.clone_from(&nonce)).await?;
                memory.losses.insert(id.0, (member.spec.nonce.clone(), false));
                // A count under way would ask its old question again, and the answer to that proves nothing.
                memory.count = None;
                written += 1;
            }
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use etcd_operator_api::member::{EtcdMemberStatus, KeeperStatus, Role};
    use etcd_operator_etcd::dial::Grpc;

    use super::*;

    fn refused(reason: &str) -> EtcdMember {
        let keeper = KeeperStatus { phase: "Refused".into(), reason: reason.into(), ..KeeperStatus::default() };
        let mut member = EtcdMember::new("c-cp1", members::blank("c", "cp1", Role::Member, 1));
        member.status = Some(EtcdMemberStatus { keeper: Some(keeper), ..EtcdMemberStatus::default() });
        let seat = serde_json::json!({"image": "etcd:v3.6.16", "probePort": 1, "order": {"sequence": 1, "run": "Run", "memberID": "000000000000000a",
            "memberName": "cp1-1", "peerURL": "", "clientURL": "", "metricsPort": 1, "clientHttpPort": 1}});
        member.spec.seat = Some(serde_json::from_value(seat).unwrap());
        member
    }

    #[test]
    fn a_word_of_a_loss_counts_once_it_was_asked_for_and_only_for_that_member() {
        let mut memory = Memory::new(Arc::new(Grpc), 0);
        let member = refused("DataLost");
        assert!(is_unproven(&memory, &member, "DataLost"));
        memory.losses.insert(0xa, ("loss-1-x".into(), false));
        assert!(is_unproven(&memory, &member, "DataLost"));
        memory.losses.insert(0xb, ("loss-1-x".into(), true));
        assert!(is_unproven(&memory, &member, "DataLost"));
        memory.losses.insert(0xa, ("loss-1-x".into(), true));
        assert!(!is_unproven(&memory, &member, "DataLost"));
        // What may pass needs no proof, as nothing follows from it.
        assert!(!is_unproven(&memory, &refused("ArchiveFull"), "ArchiveFull"));
    }
}
