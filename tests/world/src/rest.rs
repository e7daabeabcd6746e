//! Where a World may come to rest.

use etcd_operator_plan::HoldReason;

use crate::api::SeatObject;
use crate::clients::ApiServer;
use crate::{Rest, World};

/// What a World may rest at, by what its spec wants.
///
/// # Errors
/// Why it may not rest there.
pub fn rests_rightly(world: &World, rest: &Rest) -> Result<(), String> {
    let spec = &world.api.spec;
    let ours = world.our_voters().len();
    let learners = world.raft.config.iter().filter(|m| m.learner).count();
    match rest {
        Rest::Never(last) => Err(format!("never rests: {}", last.join("\n"))),
        Rest::Done if spec.abort && world.boot_listed() => {
            let alone = world.raft.config.len() == 1 && world.api.seats.is_empty();
            if alone { Ok(()) } else { Err("Done with abort, but boot is not alone".into()) }
        }
        Rest::Done if spec.skip_boot_removal && world.boot_listed() => {
            if ours + learners >= spec.size as usize {
                Ok(())
            } else {
                Err("Done with skip, but members are missing".into())
            }
        }
        Rest::Done => {
            // Also at its next start.
            let is_current =
                |seat: &SeatObject| seat.runs_with == Some(world.api.settings) && seat.settings == world.api.settings;
            if !world.api.seats.iter().all(is_current) {
                return Err("Done, but not all run with the settings that are wanted".into());
            }
            let right = !world.boot_listed() && learners == 0 && ours == spec.size as usize && world.api.seats.len() == ours;
            if right { Ok(()) } else { Err("Done, but not what is wanted".into()) }
        }
        Rest::Hold(reason, next_step) => {
            let right = match reason {
                HoldReason::HoldBootRemoval => spec.hold_boot_removal && world.boot_listed(),
                // One or two members are not restarted unless a human says so; nor is any beside a node that is about to go.
                HoldReason::ToleranceTooLow => {
                    let is_leaving =
                        |n: &crate::nodes::Node| n.cordoned || n.readiness == etcd_operator_plan::Readiness::NotReady;
                    ours < 3 || world.nodes.iter().any(is_leaving)
                }
                HoldReason::NotEnoughNodes => spec.size as usize > world.nodes.len(),
                HoldReason::ApiServerOnBootMember => world.boot_listed() && world.servers.iter().any(ApiServer::lists_only_boot),
                HoldReason::BootCameBack => world.trace.signals > 1 && world.boot_listed(),
                _ => false,
            };
            if right { Ok(()) } else { Err(format!("Hold {reason}: {next_step}")) }
        }
    }
}
