//! The members' pods: what the spec wants, what a seat's order has, what runs; and what must be there before the first one is replaced.

use etcd_operator_api::member::{EtcdMember, Pod, PodStatus, RollOut, Seat};
use etcd_operator_etcd::client::MemberStatus;
use etcd_operator_etcd::ids::MemberId;
use etcd_operator_plan::{Downgrade, NodeName, Preparation, RunsWith};
use semver::Version;

use super::memory::Memory;
use super::observe::{View, is_fresh};
use super::preflight::OLDEST_BOOT;
use super::{Context, ControllerError, members, preflight};

/// What the IDs of roll-outs begin with; the time in them tells how old an order is.
const ROLL_OUT: &str = "pod";
/// What the IDs of snapshots begin with.
const SNAPSHOT: &str = "snapshot";

/// What the spec wants.
pub(crate) fn wanted(view: &View) -> Pod {
    let spec = &view.cluster.spec;
    let pod = spec.pod.clone().unwrap_or_default();
    let resources = pod.resources.unwrap_or_default();
    Pod {
        image: format!("{}:v{}", view.repository, spec.plain_version()),
        labels: pod.labels,
        annotations: pod.annotations,
        requests: resources.requests,
        limits: resources.limits,
    }
}

/// Of a member that is made now: what the spec wants, unless that is still to be rolled out; then what the one with the oldest version has. Of those
/// that are well: once the last old one is gone the cluster has gone up, and takes no older one.
pub(crate) fn of_new(view: &View) -> Pod {
    let wanted = wanted(view);
    let pods = view.seats().into_iter().filter(|m| is_up(view, m)).filter_map(|m| {
        let ordered = m.spec.seat.as_ref().map(|seat| &seat.pod);
        m.status.as_ref().and_then(|s| s.pod.as_ref()).map(|status| &status.pod).or(ordered)
    });
    let others = pods.filter(|pod| **pod != wanted).min_by_key(|pod| version_of(&pod.image));
    others.cloned().unwrap_or(wanted)
}

/// The version that a tag names, to be compared.
fn version_of(image: &str) -> Option<Version> {
    image.rsplit_once(":v").and_then(|(_, version)| parse(version))
}

fn parse(version: &str) -> Option<Version> {
    Version::parse(version).ok()
}

fn minor(version: &Version) -> (u64, u64) {
    (version.major, version.minor)
}

fn seat_and_status(member: &EtcdMember) -> Option<(&Seat, &PodStatus)> {
    Some((member.spec.seat.as_ref()?, member.status.as_ref()?.pod.as_ref()?))
}

/// As the planner takes it.
pub(crate) fn view(member: &EtcdMember, wanted: &Pod) -> RunsWith {
    let Some(seat) = &member.spec.seat else { return RunsWith::Current };
    let Some((_, status)) = seat_and_status(member) else {
        // An agent from before it said so, one that cannot read its files, or a seat that has no pod yet.
        return match (&seat.roll_out, seat.pod == *wanted) {
            (Some(_), _) => RunsWith::UnderWay,
            (None, true) => RunsWith::Current,
            (None, false) => RunsWith::Unknown,
        };
    };
    match (status.runs, &seat.roll_out) {
        // Given back or given up, and the spec is another one by now.
        (_, Some(RollOut { before: None, stays: false, .. })) if seat.pod == status.pod && seat.pod != *wanted => {
            RunsWith::Outdated
        }
        (Some(false), _) | (_, Some(_)) => RunsWith::UnderWay,
        (Some(true), None) if status.pod == *wanted => RunsWith::Current,
        // A keeper that does not say what it was started from: what lies there may not have been replaced yet.
        (None, None) if seat.pod != status.pod => RunsWith::UnderWay,
        (None, None) if status.pod == *wanted => RunsWith::Current,
        (None, None) => RunsWith::Unknown,
        (Some(true), None) if is_unread(member) => RunsWith::UnderWay,
        (Some(true), None) => RunsWith::Outdated,
    }
}

/// Whether its agent may still act on an earlier spec: on an order that was taken back.
fn is_unread(member: &EtcdMember) -> bool {
    member.status.as_ref().and_then(|s| s.observed_generation) < member.metadata.generation
}

/// When the pod that has not been replaced yet was ordered, ms: by its agent, or by the kubelet.
pub(crate) fn ordered_ms(member: &EtcdMember) -> Option<u64> {
    let (seat, status) = seat_and_status(member)?;
    let order = seat.roll_out.as_ref().filter(|_| seat.pod != status.pod || status.runs != Some(true))?;
    members::asked_at(ROLL_OUT, &order.id)
}

/// When the pod that is there now was ordered, ms.
pub(crate) fn replaced_ms(member: &EtcdMember) -> Option<u64> {
    let (seat, status) = seat_and_status(member)?;
    members::asked_at(ROLL_OUT, &seat.roll_out.as_ref().filter(|_| seat.pod == status.pod)?.id)
}

/// Whether the pod before can be put back.
pub(crate) fn may_go_back(view: &View, member: &EtcdMember) -> bool {
    let before = member.spec.seat.as_ref().and_then(|seat| Some((seat, seat.roll_out.as_ref()?.before.as_ref()?)));
    let Some((seat, before)) = before else { return false };
    let own = member_id(member);
    let others = answering(view).filter(|(id, _)| Some(*id) != own).map(|(_, status)| status.version.as_str());
    let (before, now) = (version_of(&before.image), version_of(&seat.pod.image));
    before.zip(now).is_some_and(|(before, now)| reads_data(&before, &now, others))
}

/// A cluster's version is that of its oldest member, and goes up with it: its data may then be such that an older etcd cannot read it.
fn reads_data<'a>(before: &Version, now: &Version, mut others: impl Iterator<Item = &'a str>) -> bool {
    minor(before) >= minor(now) || others.any(|version| parse(version).is_some_and(|v| minor(&v) == minor(before)))
}

fn member_id(member: &EtcdMember) -> Option<MemberId> {
    member.spec.seat.as_ref()?.order.member_id.as_deref()?.parse().ok()
}

fn status_of<'a>(view: &'a View, member: &EtcdMember) -> Option<&'a MemberStatus> {
    view.status_of(member_id(member)?)
}

fn is_up(view: &View, member: &EtcdMember) -> bool {
    status_of(view, member).is_some_and(MemberStatus::is_healthy)
}

/// The members that have said how they are.
fn answering(view: &View) -> impl Iterator<Item = (MemberId, &MemberStatus)> {
    view.etcd.iter().flat_map(|reading| &reading.members).filter_map(|(member, status)| Some((member.id, status.as_ref()?)))
}

/// Whether a member is well with the pod that its order has.
fn is_well(view: &View, member: &EtcdMember) -> bool {
    let Some((seat, status)) = seat_and_status(member) else { return false };
    let runs = seat.pod == status.pod && status.runs == Some(true);
    let keeper = member.status.as_ref().and_then(|s| s.keeper.as_ref());
    runs && !is_unread(member) && keeper.is_some_and(|k| k.phase == "Running") && is_up(view, member)
}

/// Puts orders right: one that is done with goes; so does one whose pod nobody wants any more, and what was asked for a roll-out that is over.
/// Returns how many objects were written.
pub(crate) async fn ensure(context: &Context, view: &View) -> Result<usize, ControllerError> {
    let wanted = wanted(view);
    let is_over = rolled_back(view).is_some() || view.seats().into_iter().all(|m| self::view(m, &wanted) == RunsWith::Current);
    let mut written = 0;
    for member in view.seats() {
        let Some(right) = put_right(member, &wanted, is_well(view, member), may_go_back(view, member), is_over) else { continue };
        members::change(context, member, |spec| spec.seat = Some(right.clone())).await?;
        written += 1;
    }
    Ok(written)
}

/// A seat as it should be, if it is not.
fn put_right(member: &EtcdMember, wanted: &Pod, is_well: bool, may_go_back: bool, is_over: bool) -> Option<Seat> {
    let (seat, status) = seat_and_status(member)?;
    let mut right = seat.clone();
    // One that was taken back is not wanted any more, whatever runs until its agent has read that.
    let is_refused = seat.rolled_back.as_ref() == Some(wanted);
    // Set back, or taken back: what runs is what is wanted. The order stays until its agent is seen to have read that: it may be at it.
    let is_read = !is_unread(member);
    let stays = seat.roll_out.as_ref().is_some_and(|order| order.stays);
    let is_there = seat.pod == status.pod;
    if status.pod == *wanted && status.runs == Some(true) && !is_there && !is_refused {
        right.pod.clone_from(wanted);
        right.roll_out.iter_mut().for_each(|order| (order.before, order.stays) = (None, true));
    } else if is_well || stays && is_read && is_there {
        right.roll_out = None;
    } else if stays && is_read {
        // It came before that was read: what is wanted now is rolled out anew, if it may be.
        (right.pod, right.roll_out) = (status.pod.clone(), None);
    } else if is_there && seat.pod != *wanted && !may_go_back {
        // Neither wanted nor well, nor can what was before be put back: what is wanted takes its place.
        right.roll_out.iter_mut().for_each(|order| order.before = None);
    }
    right.rolled_back = right.rolled_back.filter(|pod| pod == wanted);
    right.prove = right.prove.filter(|image| !is_over && *image == wanted.image);
    // What was taken for another version is not of this roll-out.
    right.snapshot = right.snapshot.filter(|_| !is_over && seat.prove == right.prove);
    (right != *seat).then_some(right)
}

/// Why what the spec wants must not be rolled out.
pub(crate) fn refusal(view: &View) -> Option<String> {
    let wanted = wanted(view);
    if view.seats().into_iter().all(|member| self::view(member, &wanted) == RunsWith::Current) {
        return None;
    }
    if view.repository.is_empty() {
        return Some(preflight::NO_REPOSITORY.into());
    }
    if let Some(why) = preflight::of_pod(&wanted) {
        return Some(why);
    }
    // One that does not answer runs what its pod has.
    let silent = view.seats().into_iter().filter(|m| member_id(m).is_some() && status_of(view, m).is_none());
    let images = silent.filter_map(|m| Some(seat_and_status(m)?.1.pod.image.rsplit_once(":v")?.1));
    let versions: Vec<&str> = answering(view).map(|(_, status)| status.version.as_str()).chain(images).collect();
    skew(&versions, view.cluster.spec.plain_version())
}

/// The first version whose data etcd converts for the one before.
const DOWNGRADES_FROM: (u64, u64) = (3, 6);

/// Which versions may follow which: etcd's own rule is one minor version at a time.
fn skew(running: &[&str], wanted: &str) -> Option<String> {
    let Some(to) = parse(wanted) else {
        return Some(format!("spec.version is {wanted}; it must be a version of etcd such as 3.6.16"));
    };
    let lowest = running.iter().filter_map(|version| parse(version)).min()?;
    let (runs, rises) = (minor(&lowest), (lowest.major, lowest.minor + 1));
    if to < OLDEST_BOOT {
        Some(format!("spec.version is {wanted}; the oldest that the operator runs is {OLDEST_BOOT}"))
    } else if minor(&to) < runs && (minor(&to) != (runs.0, runs.1.saturating_sub(1)) || runs < DOWNGRADES_FROM) {
        let before = if runs < DOWNGRADES_FROM { runs } else { (runs.0, runs.1.saturating_sub(1)) };
        Some(format!(
            "spec.version is {wanted}, and all members run {lowest} or later: etcd goes down by one minor version at a time, from {}.{} on; set spec.version to {}.{}.x",
            DOWNGRADES_FROM.0, DOWNGRADES_FROM.1, before.0, before.1
        ))
    } else if minor(&to) < runs && running.iter().filter_map(|version| parse(version)).any(|version| minor(&version) != runs) {
        Some(format!(
            "spec.version is {wanted}, and the members run {lowest} and later ones: etcd goes down by one minor version at a time; set spec.version to {}.{}.x first",
            runs.0, runs.1
        ))
    } else if minor(&to) > rises {
        Some(format!(
            "spec.version is {wanted}, and a member runs {lowest}: etcd goes up by one minor version at a time; set spec.version to {}.{}.x first",
            rises.0, rises.1
        ))
    } else {
        let is_rise = minor(&to) == rises;
        (is_rise && lowest < OLDEST_BOOT).then(|| {
            format!("spec.version is {wanted}, and a member runs {lowest}: set spec.version to {OLDEST_BOOT} or a later patch of it first")
        })
    }
}

/// What did not come up and was taken back, where the spec still wants it.
pub(crate) fn rolled_back(view: &View) -> Option<String> {
    let wanted = wanted(view);
    let member =
        view.seats().into_iter().find(|m| m.spec.seat.as_ref().is_some_and(|s| s.rolled_back.as_ref() == Some(&wanted)))?;
    Some(format!(
        "etcd on {} did not come up with {} and what else the spec says of the pod, and was given back what it had; no other member is tried: see the pod's log, then set spec.version, repository and pod to something else, or back and anew to have the same tried again",
        member.spec.node_name, wanted.image
    ))
}

/// What is there of that which must be before the first member is restarted with another image.
pub(crate) fn preparation(view: &View, memory: &Memory) -> Preparation {
    let wanted = wanted(view);
    let outdated = || {
        view.seats().into_iter().filter_map(|m| Some((m, seat_and_status(m)?))).filter(|(_, (_, s))| s.pod.image != wanted.image)
    };
    if outdated().next().is_none() {
        return Preparation::Ready;
    }
    if outdated().any(|(_, (seat, _))| seat.prove.as_ref() != Some(&wanted.image)) {
        return Preparation::NotAsked;
    }
    let mut missing = Vec::new();
    for (member, _) in outdated() {
        let node = &member.spec.node_name;
        let said = member.status.as_ref().and_then(|s| s.proof.as_ref()).filter(|proof| proof.image == wanted.image);
        match said {
            None => missing.push(format!("{node} has not run {} yet (pod proof-etcd-{}-{node})", wanted.image, view.name())),
            Some(proof) if proof.version.is_empty() => {
                return Preparation::Failed { why: format!("{} cannot be run on {node}: {}", wanted.image, proof.message) };
            }
            Some(proof) if proof.version != view.cluster.spec.plain_version() => {
                return Preparation::Failed { why: format!("{} holds etcd {} on {node}", wanted.image, proof.version) };
            }
            Some(proof) => match proof.reads_log {
                Some(true) => {}
                Some(false) => missing.push(format!("the log on {node} holds requests that etcd 3.5 wrote, which {} cannot read: they go with etcd's own next snapshot, after 10,000 writes at most", proof.version)),
                None => missing.push(format!("the log on {node} is still to be looked through")),
            },
        }
    }
    if needs_snapshot(view) {
        match snapshot_asked(view) {
            None => return Preparation::NotAsked,
            Some((member, id)) => {
                let taken = member.status.as_ref().and_then(|s| s.snapshot.as_ref()).is_some_and(|taken| taken.id == *id);
                if !taken {
                    let why = member.status.as_ref().map(|s| s.problem_message.as_str()).unwrap_or_default();
                    missing.push(format!("{} has not taken its snapshot yet {why}", member.spec.node_name));
                }
            }
        }
    }
    let is_newer =
        |pod: &Pod| version_of(&pod.image).zip(version_of(&wanted.image)).is_some_and(|(has, to)| minor(&has) > minor(&to));
    for (member, (_, status)) in outdated().filter(|(m, (_, s))| status_of(view, m).is_none() && is_newer(&s.pod)) {
        let node = &member.spec.node_name;
        missing.push(format!(
            "etcd on {node} ({}) does not answer, so that nobody knows which version its data is of",
            status.pod.image
        ));
    }
    if missing.is_empty() {
        let pinned = is_pinned(view);
        let unconverted: Vec<String> = answering(view)
            .filter(|(_, s)| !reads(view.cluster.spec.plain_version(), s, pinned))
            .map(|(id, _)| id.to_string())
            .collect();
        match unconverted.as_slice() {
            [] => return Preparation::Ready,
            _ if downgrades(view).next().is_none() => return Preparation::Unconverted,
            ids => missing.push(format!("etcd has not converted the data of {} yet", ids.join(", "))),
        }
    }
    Preparation::Pending {
        missing: missing.join("; ").trim_end().to_owned(),
        since_ms: memory.preparing_since.unwrap_or(view.now_ms),
    }
}

/// Whether an etcd of the wanted version can read a member's data, as far as its version goes: etcd converts it when it is told to, and says so. And it must
/// stay so: the cluster's version goes up within seconds once no member of the older one is left (`pinned`), unless etcd was told not to let it.
fn reads(wanted: &str, status: &MemberStatus, pinned: bool) -> bool {
    let Some((wanted, runs)) = parse(wanted).zip(parse(&status.version)) else { return false };
    let is_of = |version: &str| parse(version).is_some_and(|version| minor(&version) <= minor(&wanted));
    let stays = pinned || status.downgrade.as_deref().and_then(parse).is_some_and(|target| minor(&target) == minor(&wanted));
    minor(&runs) <= minor(&wanted) || (is_of(&status.storage_version) && stays)
}

/// Whether a member that answers is of the wanted minor version, or an older one.
fn is_pinned(view: &View) -> bool {
    let Some(wanted) = parse(view.cluster.spec.plain_version()) else { return false };
    answering(view).filter_map(|(_, status)| parse(&status.version)).any(|runs| minor(&runs) <= minor(&wanted))
}

/// The minor versions that members were told to go down to.
fn downgrades(view: &View) -> impl Iterator<Item = Version> {
    answering(view).filter_map(|(_, status)| parse(status.downgrade.as_deref()?))
}

/// As the planner takes it.
pub(crate) fn downgrade(view: &View) -> Downgrade {
    let Some(wanted) = parse(view.cluster.spec.plain_version()) else { return Downgrade::None };
    match downgrades(view).map(|target| minor(&target) == minor(&wanted)).min() {
        None => Downgrade::None,
        Some(true) => Downgrade::Wanted,
        Some(false) => Downgrade::Unwanted,
    }
}

/// The minor version that the spec says, as etcd wants it named.
pub(crate) fn minor_version(view: &View) -> String {
    let (major, minor) = parse(view.cluster.spec.plain_version()).as_ref().map_or((0, 0), minor);
    format!("{major}.{minor}.0")
}

/// Another version, which no member runs yet.
fn needs_snapshot(view: &View) -> bool {
    answering(view).all(|(_, status)| status.version != view.cluster.spec.plain_version())
}

/// A snapshot that was asked for in this roll-out, of a member that is well.
fn snapshot_asked<'a>(view: &'a View) -> Option<(&'a EtcdMember, &'a String)> {
    let asked = |m: &'a EtcdMember| Some((m, m.spec.seat.as_ref()?.snapshot.as_ref()?));
    view.seats().into_iter().filter(|m| is_up(view, m)).find_map(asked)
}

/// Since when something is missing.
pub(crate) fn note_preparing(view: &View, memory: &mut Memory) {
    memory.preparing_since = match preparation(view, memory) {
        Preparation::Pending { since_ms, .. } => Some(since_ms),
        Preparation::Ready | Preparation::NotAsked | Preparation::Unconverted | Preparation::Failed { .. } => None,
    };
}

/// Asks for what is missing.
pub(crate) async fn prepare(context: &Context, view: &View) -> Result<(), ControllerError> {
    let wanted = wanted(view);
    let leads = |m: &EtcdMember| status_of(view, m).is_none_or(|s| s.leader == Some(s.member_id));
    let needs_snapshot = needs_snapshot(view) && snapshot_asked(view).is_none();
    // Of a follower, where there is one: the leader has enough to do.
    let source = view
        .seats()
        .into_iter()
        .filter(|m| is_up(view, m))
        .min_by_key(|m| (!is_fresh(m), leads(m), &m.spec.node_name))
        .filter(|_| needs_snapshot);
    for member in view.seats() {
        let Some((_, status)) = seat_and_status(member) else { continue };
        let is_source = source.is_some_and(|source| source.spec.node_name == member.spec.node_name);
        let snapshot = members::ask(SNAPSHOT, view.now_ms);
        members::change(context, member, |spec| {
            let Some(seat) = &mut spec.seat else { return };
            if status.pod.image != wanted.image {
                seat.prove = Some(wanted.image.clone());
            }
            if needs_snapshot {
                seat.snapshot = is_source.then(|| snapshot.clone());
            }
        })
        .await?;
    }
    Ok(())
}

/// The order to put what the spec wants in the place of the pod that runs; `None` = that is what runs.
pub(crate) fn order(view: &View, member: &EtcdMember, overruled: bool) -> Option<(Pod, RollOut)> {
    let wanted = wanted(view);
    let (_, status) = seat_and_status(member).filter(|(_, status)| status.pod != wanted)?;
    let id = members::ask(ROLL_OUT, view.now_ms);
    Some((wanted, RollOut { id, overruled, before: Some(status.pod.clone()), stays: false }))
}

/// No other pod after all: what runs stays. `there` is what its agent has said of it.
pub(crate) fn call_off(seat: &mut Seat, there: Option<&PodStatus>) {
    let Some(order) = seat.roll_out.take() else { return };
    // Of the way back: what did not come up has come up after all.
    let given_back = seat.rolled_back.take();
    let runs = there.filter(|there| there.runs == Some(true)).map(|there| there.pod.clone());
    if let Some(stays) = order.before.or(runs).or(given_back) {
        seat.pod = stays;
    }
}

/// Puts the pod back that was there before. Not where the others are no quorum meanwhile: it may have come up after all.
pub(crate) async fn roll_back(context: &Context, view: &View, node: &NodeName) -> Result<(), ControllerError> {
    let Some(member) = view.member_of(&node.0) else { return Ok(()) };
    let id = members::ask(ROLL_OUT, view.now_ms);
    members::change(context, member, |spec| {
        let Some(seat) = &mut spec.seat else { return };
        let Some(before) = seat.roll_out.as_ref().and_then(|order| order.before.clone()) else { return };
        seat.rolled_back = Some(std::mem::replace(&mut seat.pod, before));
        seat.roll_out = Some(RollOut { id: id.clone(), overruled: false, before: None, stays: false });
    })
    .await
    .map(drop)
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
