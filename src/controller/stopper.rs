//! Who stops boot: the agent of its node where it is a static pod, else the command that the pivot command runs. The order, its answer, and
//! how it is taken back; all else (`remove.rs`) is the same for both.

use etcd_operator_api::boot_command::{CommandAnswer, CommandStep};
use etcd_operator_api::cluster::{CommandOrder, StopBoot};
use etcd_operator_api::member::{BootDrain, BootDrainStep, EtcdMember};
use etcd_operator_plan as plan;
use kube::ResourceExt;

use super::observe::View;
use super::{Context, ControllerError, api_error, members, status, structure};

/// Who stops boot.
pub(crate) enum Stopper<'a> {
    /// The agent of its node.
    Agent(&'a EtcdMember),
    /// Whoever runs its command, for the EtcdCluster of this name.
    Command(String),
}

/// What was said of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Boot was signalled, perhaps killed by now.
    Signalled,
    /// It was not, or is started again.
    Refused,
}

impl<'a> Stopper<'a> {
    /// `None` = there is nobody.
    pub(crate) fn of(view: &'a View) -> Option<Self> {
        if is_command(view) { Some(Self::Command(view.name())) } else { view.boot_member().map(Self::Agent) }
    }

    /// Gives the order. Fails if somebody else wrote in between.
    pub(crate) async fn order(&self, context: &Context, drain: &BootDrain) -> Result<(), ControllerError> {
        match self {
            Self::Agent(member) => members::change(context, member, |spec| {
                if let Some(boot) = &mut spec.boot {
                    boot.drain = Some(drain.clone());
                }
            })
            .await
            .map(drop),
            Self::Command(name) => {
                let mut object = context.clusters().get(name).await.map_err(api_error("reading the EtcdCluster"))?;
                let status = object.status.get_or_insert_default();
                // Written over the version that carries our own intent: with that gone, the step is another controller's.
                if status.intent.as_ref().is_none_or(|intent| intent.holder != context.args.holder) {
                    return Err(ControllerError::Object("boot was not told to stop: another controller took over".into()));
                }
                let order = CommandOrder { id: drain.id.clone(), withdrawn: false };
                status.pivot.get_or_insert_default().boot_drain = Some(order);
                status::replace(context, object).await.map(drop)
            }
        }
    }

    /// What was said of the order by now.
    pub(crate) async fn answer(&self, context: &Context, id: &str) -> Option<Answer> {
        match self {
            Self::Agent(member) => {
                let member = context.members().get_opt(&member.name_any()).await.ok()??;
                let boot = member.status?.boot?;
                match boot.drain_step.filter(|_| boot.drain_id.as_deref() == Some(id))? {
                    BootDrainStep::Signalled | BootDrainStep::Gone => Some(Answer::Signalled),
                    BootDrainStep::Failed | BootDrainStep::StartedAgain => Some(Answer::Refused),
                }
            }
            Self::Command(name) => {
                let cluster = context.clusters().get_opt(name).await.ok()??;
                match CommandAnswer::of(&cluster).filter(|answer| answer.id == id)?.step {
                    CommandStep::Signalled | CommandStep::Gone => Some(Answer::Signalled),
                    // Ready: another controller withdrew it.
                    CommandStep::Ready | CommandStep::StartedAgain | CommandStep::Failed => Some(Answer::Refused),
                }
            }
        }
    }

    /// Takes back an order that was not carried out. One that was carried out in between takes its own course: boot is started again by
    /// its kubelet, or by its command.
    pub(crate) async fn take_back(&self, context: &Context) -> Result<(), ControllerError> {
        match self {
            Self::Agent(member) => {
                let fresh = context.members().get(&member.name_any()).await.map_err(api_error("reading boot's EtcdMember"))?;
                members::change(context, &fresh, |spec| {
                    if let Some(boot) = &mut spec.boot {
                        boot.drain = None;
                    }
                })
                .await
                .map(drop)
            }
            Self::Command(name) => edit(context, name, mark).await,
        }
    }
}

/// Takes back what the planner does not want to stand any more: an order that nobody carried out, or the count of those that were in vain.
pub(crate) async fn withdraw(context: &Context, view: &View) -> Result<(), ControllerError> {
    if let Some(member) = view.boot_member().filter(|m| m.spec.boot.as_ref().is_some_and(|b| b.drain.is_some())) {
        Stopper::Agent(member).take_back(context).await?;
    }
    let name = view.name();
    match drain(view) {
        plan::BootDrain::Ordered { .. } => edit(context, &name, mark).await,
        // As seen: what was answered since then is of another order, or of one that was given up.
        plan::BootDrain::None
        | plan::BootDrain::Signalled { .. }
        | plan::BootDrain::StartedAgain { .. }
        | plan::BootDrain::Failed { .. }
        | plan::BootDrain::Unanswered
        | plan::BootDrain::Gone => {
            let seen = view.status.pivot.as_ref().and_then(|p| p.boot_drain.clone());
            edit(context, &name, |order, _| order.take_if(|order| Some(&*order) == seen.as_ref()).is_some()).await
        }
    }
}

/// An order that nobody answered is marked, so that this is known and nobody begins it any more. Returns whether it was open.
fn mark(order: &mut Option<CommandOrder>, answer: Option<&CommandAnswer>) -> bool {
    match order {
        Some(order) if !order.withdrawn && answer.is_none_or(|answer| answer.id != order.id) => {
            order.withdrawn = true;
            true
        }
        Some(_) | None => false,
    }
}

/// Changes the order to the command; `change` says whether it did.
async fn edit(
    context: &Context,
    name: &str,
    change: impl Fn(&mut Option<CommandOrder>, Option<&CommandAnswer>) -> bool,
) -> Result<(), ControllerError> {
    loop {
        let mut object = context.clusters().get(name).await.map_err(api_error("reading the EtcdCluster"))?;
        let answer = CommandAnswer::of(&object);
        let pivot = object.status.get_or_insert_default().pivot.get_or_insert_default();
        if !change(&mut pivot.boot_drain, answer.as_ref()) {
            return Ok(());
        }
        match status::replace(context, object).await {
            // It may be the answer that came in between.
            Err(ControllerError::Api { source, .. }) if members::is_conflict(&source) => {}
            done => return done.map(drop),
        }
    }
}

/// Whether boot's command stops it: asked for, and boot is not a pod that its node's agent stops, or has stopped.
pub(crate) fn is_command(view: &View) -> bool {
    let wanted = view.cluster.spec.self_hosted.as_ref().and_then(|s| s.stop_boot);
    let Some(StopBoot::Command) = wanted else { return false };
    let Some(member) = view.boot_member() else { return true };
    let seen = member.status.clone().unwrap_or_default().boot.unwrap_or_default();
    // A removed pod has no manifest any more, and its tombstone is its agent's all the same.
    let by_agent = matches!(seen.drain_step, Some(BootDrainStep::Signalled | BootDrainStep::Gone))
        || member.spec.boot.as_ref().is_some_and(|boot| boot.tombstone.is_some());
    seen.manifest.is_none() && !by_agent
}

/// Boot's removal, as far as its command is concerned.
pub(crate) fn drain(view: &View) -> plan::BootDrain {
    let Some(order) = view.status.pivot.as_ref().and_then(|p| p.boot_drain.as_ref()) else { return plan::BootDrain::None };
    let attempt = structure::attempt_of(&order.id);
    let answer = CommandAnswer::of(&view.cluster).filter(|answer| answer.id == order.id);
    match answer.map(|answer| answer.step) {
        None if !order.withdrawn => plan::BootDrain::Ordered { attempt },
        // Whom the spec no longer asks for need not answer.
        None if is_command(view) => plan::BootDrain::Unanswered,
        None | Some(CommandStep::Ready) => plan::BootDrain::None,
        Some(CommandStep::Signalled) => plan::BootDrain::Signalled { attempt },
        Some(CommandStep::StartedAgain) => plan::BootDrain::StartedAgain { attempt },
        Some(CommandStep::Failed) => plan::BootDrain::Failed { attempt },
        Some(CommandStep::Gone) => plan::BootDrain::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_order_without_an_answer_is_marked() {
        let answer = |id: &str| Some(CommandAnswer { id: id.into(), step: CommandStep::Failed });
        for (withdrawn, answer, marked) in [
            (false, None, true),
            (false, answer("drain-0-1"), true),
            (false, answer("drain-1-1"), false),
            (true, None, false),
            (true, answer("drain-1-1"), false),
        ] {
            let mut order = Some(CommandOrder { id: "drain-1-1".into(), withdrawn });
            assert_eq!(mark(&mut order, answer.as_ref()), marked, "{withdrawn} {answer:?}");
            assert_eq!(order.map(|order| order.withdrawn), Some(withdrawn || marked));
        }
        assert!(!mark(&mut None, None));
    }
}
