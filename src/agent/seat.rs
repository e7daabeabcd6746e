//! A member's seat: directories, binary, order, manifest, in this order, so that each thing finds what it needs when it appears.

use std::fs::File;
use std::time::Duration;

use etcd_operator_api::member::{
    EtcdMember, HandOverStatus, KeeperHandOverStep, KeeperStatus, OrderSpec, PodStatus, RestartSpec, Role, RunSpec, Seat,
    Settings,
};
use etcd_operator_client::clock;
use etcd_operator_etcd::ids::{ClusterId, MemberId};
use etcd_operator_etcd::wal::Owner;
use etcd_operator_keeper::ask;
use etcd_operator_keeper::contract::{
    DrainStep, EtcdSettings, FORMAT, HandOver, HandOverStep, OneShot, Order, Paths, Permission, PermissionKind, Phase,
    QUOTA_BYTES, Restart, Run, State, Unless,
};
use etcd_operator_keeper::order::address as keeper_address;

use crate::binary::Binary;
use crate::files;
use crate::host::Agent;
use crate::manifest::{self, Replace};
use crate::node::AgentArgs;
use crate::problem::{Problem, Reason};
use crate::proof;
use crate::validate::DATASTORE_PORT;

/// Carries the seat out. Certificates must be in place. `asked` is what the other members said when they were asked for [`wants_replacement`].
pub(crate) fn apply(
    args: &AgentArgs,
    binary: &Binary,
    member: &EtcdMember,
    seat: &Seat,
    asked: Option<&Asked>,
) -> Result<(), Problem> {
    let (cluster, paths) = (&member.spec.cluster_name, args.paths(&member.spec.cluster_name));
    if !paths.order().exists() {
        manifest::is_ours(args, cluster)?;
    }
    copy_keeper(args, &paths)?;
    write_order(&paths, member.spec.lineage, seat)?;
    // After the order, which must reach the keeper also where there is no room for another binary: one that is not there is not run.
    let offered = offer_keeper(args, binary, &paths, seat);
    let proven = proof::apply(args, cluster, seat.prove.as_deref());
    let state: State = files::read_json(&paths.state())?.unwrap_or_default();
    // An answer that lay about while a disk stalled says nothing of now.
    let may_be = |asked: &Asked| asked.answer.is_ok() && clock::instant().duration_since(asked.at) <= ANSWER_HOLDS;
    let replace = match runs(&state) {
        false => Replace::Idle,
        true if asked.is_some_and(may_be) => Replace::Yes,
        true => Replace::No,
    };
    if manifest::apply(args, cluster, seat, state.pod.as_deref(), replace)? {
        tracing::info!(%cluster, image = seat.pod.image, "static pod manifest written");
    }
    offered.and(proven)
}

/// Whether a member is here that was not removed: whatever its keeper says at this moment, it may run, or be about to.
pub(crate) fn has_member(args: &AgentArgs, cluster: &str) -> bool {
    let state = files::read_json::<State>(&args.paths(cluster).state()).ok().flatten().unwrap_or_default();
    let is_member = state.ran_here.last().is_some_and(|id| !state.removed.contains(id));
    is_member && manifest::lies(args, cluster)
}

fn runs(state: &State) -> bool {
    matches!(state.phase, Phase::Running | Phase::Draining)
}

/// How long it holds that the other voters are a quorum.
const ANSWER_HOLDS: Duration = Duration::from_millis(500);

/// What the other members said of a restart of this one.
pub(crate) struct Asked {
    pub(crate) answer: Result<(), String>,
    pub(crate) at: clock::Instant,
}

/// Asks the other members whether the pod that runs may be replaced, where that is ordered and not done: the order may be old, as after a power cut.
pub(crate) async fn ask(agent: &Agent, member: &EtcdMember) -> Option<Asked> {
    let seat = member.spec.seat.as_ref().filter(|_| member.spec.role == Role::Member)?;
    let ordered = seat.roll_out.as_ref().filter(|order| !order.stays)?;
    let (args, cluster) = (&agent.args, &member.spec.cluster_name);
    let status = manifest::status(args, cluster, None).ok()??;
    let paths = args.paths(cluster);
    let state: State = files::read_json(&paths.state()).ok()??;
    if status.pod == seat.pod || !runs(&state) {
        return None;
    }
    let id = |text: &Option<String>| u64::from_str_radix(text.as_deref()?, 16).ok();
    let answer = match (ordered.overruled, id(&seat.order.cluster_id), id(&seat.order.member_id)) {
        (true, _, _) => Ok(()),
        (false, Some(cluster), Some(id)) => {
            let owner = Owner { cluster: ClusterId(cluster), member: MemberId(id) };
            let others = ask::others(&order(member.spec.lineage, &seat.order), &state);
            agent.host.others_are_a_quorum(&paths.pki(), &others, owner).await
        }
        (false, _, _) => Err("its order names no member".into()),
    };
    if let Err(why) = &answer {
        tracing::debug!(why, "the pod is not replaced yet");
    }
    Some(Asked { answer, at: clock::instant() })
}

/// The keeper's word (`keeper/table.rs`) for a removed member of which nothing is left to be archived.
const MEMBER_REMOVED: &str = "MemberRemoved";
/// The same where its cluster is deleted, and what lies there is not its member's.
const OTHERS_DATA: &str = "OthersDataStays";

/// Where the member of a seat is to listen.
pub(crate) fn address(member: &EtcdMember) -> Option<std::net::IpAddr> {
    let seat = member.spec.seat.as_ref().filter(|_| member.spec.role == Role::Member)?;
    etcd_operator_keeper::order::address(&seat.order.peer_url).map(|address| address.ip())
}

/// The seat was given back: its order is to stop, and once no etcd runs any more and the data lies in the archive the pod goes, too. The state
/// stays.
pub(crate) fn give_back(args: &AgentArgs, member: &EtcdMember, seat: &Seat) -> Result<(), Problem> {
    let paths = args.paths(&member.spec.cluster_name);
    if !paths.order().exists() {
        return Ok(());
    }
    write_order(&paths, member.spec.lineage, seat)?;
    let state: Option<State> = files::read_json(&paths.state())?;
    let wanted = order(member.spec.lineage, &seat.order);
    // Without a state no keeper ever ran, nor an etcd.
    // The keeper archives what it knows to be a removed member's, and nothing else: an empty directory, or what is damaged, stays.
    let has_log = paths.member(&seat.order.member_name).join("member/wal").exists();
    let is_archived = |state: &State| match &seat.order.archive {
        Some(id) => {
            let has_seen = (state.order_lineage, state.order_sequence) >= (wanted.lineage, wanted.sequence);
            state.consumed.contains(id)
                || has_seen && ([MEMBER_REMOVED, OTHERS_DATA].contains(&state.reason.as_str()) || !has_log)
        }
        None => true,
    };
    proof::apply(args, &member.spec.cluster_name, None)?;
    let is_over = state.is_none_or(|state| state.phase == Phase::Stopped && is_archived(&state));
    if is_over && manifest::remove(args, &member.spec.cluster_name)? {
        tracing::info!(cluster = %member.spec.cluster_name, "static pod manifest removed: the seat was given back");
    }
    Ok(())
}

/// The first keeper of this node. A later one comes on the controller's word only, so that a cold start never meets a keeper that has
/// not run here (design D3).
fn copy_keeper(args: &AgentArgs, paths: &Paths) -> Result<(), Problem> {
    files::make_dir(&paths.bin(), 0o755)?;
    let keeper = paths.keeper();
    if keeper.exists() {
        return Ok(());
    }
    let source = File::open(&args.keeper_binary).map_err(|error| Problem::file("read", &args.keeper_binary, &error))?;
    files::write_from(&keeper, source, files::PROGRAM)
}

/// Puts this agent's own binary beside the keeper that runs, if the controller wants just this one to run. Another one is another agent's
/// to bring: the agents are being rolled out. `bin/keeper` itself is the keeper's to replace (`keeper/take_over.rs`).
fn offer_keeper(args: &AgentArgs, binary: &Binary, paths: &Paths, seat: &Seat) -> Result<(), Problem> {
    let Some(wanted) = seat.keeper.as_deref().filter(|wanted| binary.own() == Some(wanted)) else { return Ok(()) };
    let state: State = files::read_json(&paths.state())?.unwrap_or_default();
    let is_refused = |h: &HandOver| h.step == HandOverStep::Refused && h.to == wanted;
    if state.keeper_binary.as_deref() == Some(wanted) || state.hand_over.as_ref().is_some_and(is_refused) {
        return Ok(());
    }
    let next = paths.keeper_next();
    if binary.of(&next).as_deref() == Some(wanted) {
        return Ok(());
    }
    let source = File::open(&args.keeper_binary).map_err(|error| Problem::file("read", &args.keeper_binary, &error))?;
    files::write_from(&next, source, files::PROGRAM)?;
    tracing::info!(path = %next.display(), binary = wanted, "another keeper is offered");
    Ok(())
}

fn write_order(paths: &Paths, lineage: i64, seat: &Seat) -> Result<(), Problem> {
    let wanted = Order { keeper: seat.keeper.clone(), ..order(lineage, &seat.order) };
    // What no keeper has ever read says nothing of what was here.
    let is_void = |current: &Order| current.run == Run::Stop && !paths.state().exists();
    if let Some(current) = files::read_json::<Order>(&paths.order())?.filter(|current| !is_void(current)) {
        // Whatever the controller believes that this EtcdCluster is.
        let is_datastores = |url: &str| keeper_address(url).is_some_and(|address| address.port() == DATASTORE_PORT);
        if current.run != Run::Stop && is_datastores(&current.etcd.client_url) && !is_datastores(&wanted.etcd.client_url) {
            return Err(Problem::new(
                Reason::OrderOlder,
                "the order on this node is of the cluster's own datastore, and the spec's of another cluster: it was not written; give EtcdCluster and EtcdMembers back as they were",
            ));
        }
        if (wanted.lineage, wanted.sequence) < (current.lineage, current.sequence) {
            return Err(Problem::new(
                Reason::OrderOlder,
                format!(
                    "the spec's order (lineage {}, sequence {}) is older than the one on this node ({}, {}) and was not written: an old view of the API, or one restored from a backup; the controller must go on from the node's",
                    wanted.lineage, wanted.sequence, current.lineage, current.sequence
                ),
            ));
        }
        if current == wanted {
            return Ok(());
        }
    }
    let state: Option<State> = files::read_json(&paths.state())?;
    let reads = state.map(|state| state.reads_orders).unwrap_or_default();
    // No claim yet = no keeper has run here; the one that will is a copy of this very binary.
    if !reads.is_empty() && !reads.contains(&FORMAT) {
        return Err(Problem::new(
            Reason::KeeperTooOld,
            format!(
                "this agent writes orders of format {FORMAT}, the keeper on the node reads {reads:?}; upgrade the keeper, or go back to the older agent"
            ),
        ));
    }
    files::write_json(&paths.order(), &wanted, files::SECRET)
}

/// The controller's order as the keeper reads it. Destructured: a field that nobody passes on does not compile.
fn order(lineage: i64, spec: &OrderSpec) -> Order {
    let OrderSpec {
        sequence,
        run,
        cluster_id,
        member_id,
        member_name,
        peer_url,
        client_url,
        metrics_port,
        client_http_port,
        max_learners,
        settings,
        ask,
        bootstrap,
        drain,
        archive,
        retire,
        restart,
    } = spec.clone();
    let once = |id: Option<String>| id.map(|id| OneShot { id });
    let Settings { quota_backend_bytes, heartbeat_ms, election_ms } = settings.unwrap_or_default();
    Order {
        format: FORMAT,
        // Both were checked not to be negative.
        lineage: u64::try_from(lineage).unwrap_or_default(),
        sequence: u64::try_from(sequence).unwrap_or_default(),
        cluster_id,
        member_id,
        member_name,
        run: match run {
            RunSpec::Wait => Run::Wait,
            RunSpec::Run => Run::Run,
            RunSpec::Stop => Run::Stop,
        },
        etcd: EtcdSettings {
            peer_url,
            client_url,
            metrics_port,
            client_http_port,
            max_learners: u32::from(max_learners),
            // All were checked not to be negative.
            quota_backend_bytes: u64::try_from(quota_backend_bytes).ok().filter(|quota| *quota > 0).unwrap_or(QUOTA_BYTES),
            heartbeat_ms: u32::try_from(heartbeat_ms).unwrap_or_default(),
            election_ms: u32::try_from(election_ms).unwrap_or_default(),
        },
        ask,
        permission: bootstrap.map(|id| Permission { id, kind: PermissionKind::Bootstrap }),
        drain: once(drain),
        archive: once(archive),
        retire,
        restart: restart.map(|RestartSpec { id, overruled }| Restart {
            id,
            unless: if overruled { Unless::Never } else { Unless::QuorumLost },
        }),
        keeper: None,
    }
}

/// The static pod, for the status.
pub(crate) fn pod_status(args: &AgentArgs, cluster: &str, asked: Option<&Asked>) -> Result<Option<PodStatus>, Problem> {
    let state: State = files::read_json(&args.paths(cluster).state())?.unwrap_or_default();
    let message = asked.and_then(|asked| asked.answer.as_ref().err()).cloned().unwrap_or_default();
    Ok(manifest::status(args, cluster, state.pod.as_deref())?.map(|status| PodStatus { message, ..status }))
}

/// What the keeper's state file says, for the status. None if there is none (yet), or it is torn.
pub(crate) fn keeper_status(paths: &Paths) -> Result<Option<KeeperStatus>, Problem> {
    Ok(files::read_json::<State>(&paths.state())?.map(|state| {
        // A refused order is news for the controller even while etcd runs.
        let message = match &state.order_refused {
            Some(why) => format!("{}; order refused: {why}", state.message),
            None => state.message.clone(),
        };
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        KeeperStatus {
            version: state.keeper_version,
            etcd_version: state.etcd_version,
            phase: phase(state.phase).into(),
            reason: state.reason,
            message,
            order_lineage: count(state.order_lineage),
            order_sequence: count(state.order_sequence),
            ran_here: state.ran_here,
            removed: state.removed,
            consumed: state.consumed,
            drain_id: state.drain.as_ref().map(|drain| drain.id.clone()),
            drain_step: state.drain.as_ref().map(|drain| {
                match drain.step {
                    DrainStep::Signalled => "Signalled",
                    DrainStep::Gone => "Gone",
                    DrainStep::StartedAgain => "StartedAgain",
                }
                .into()
            }),
            binary: state.keeper_binary,
            hand_over: state.hand_over.map(hand_over),
            runs_with: state.runs_with.filter(|_| state.etcd_pid.is_some()).map(|with| settings(&with)),
        }
    }))
}

fn settings(with: &EtcdSettings) -> Settings {
    let small = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    Settings {
        quota_backend_bytes: i64::try_from(with.quota_backend_bytes).unwrap_or(i64::MAX),
        heartbeat_ms: small(with.heartbeat_ms),
        election_ms: small(with.election_ms),
    }
}

fn hand_over(seen: HandOver) -> HandOverStatus {
    let HandOver { to, step, message, etcd: _, boot_id: _ } = seen;
    let step = match step {
        HandOverStep::Begun => KeeperHandOverStep::Begun,
        HandOverStep::Proving => KeeperHandOverStep::Proving,
        HandOverStep::Done => KeeperHandOverStep::Done,
        HandOverStep::Refused => KeeperHandOverStep::Refused,
    };
    HandOverStatus { to, step, message }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Deciding => "Deciding",
        Phase::Waiting => "Waiting",
        Phase::Running => "Running",
        Phase::Stopped => "Stopped",
        Phase::Refused => "Refused",
        Phase::Draining => "Draining",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn written(paths: &Paths) -> Order {
        files::read_json(&paths.order()).unwrap().unwrap()
    }

    #[test]
    fn the_sequence_never_goes_back() {
        let root = tempfile::tempdir().unwrap();
        let paths = testing::args(root.path()).paths("kube-etcd");
        std::fs::create_dir_all(&paths.dir).unwrap();
        let mut spec = testing::member().spec.seat.unwrap();
        write_order(&paths, 1, &spec).unwrap();
        assert_eq!(written(&paths).sequence, 4);
        spec.order.sequence = 3;
        assert_eq!(write_order(&paths, 1, &spec).unwrap_err().reason, Reason::OrderOlder);
        assert_eq!(written(&paths).sequence, 4);
        // A new lineage begins anew; an old one is void.
        write_order(&paths, 2, &spec).unwrap();
        assert_eq!((written(&paths).lineage, written(&paths).sequence), (2, 3));
        spec.order.sequence = 100;
        assert!(write_order(&paths, 1, &spec).is_err());
    }

    #[test]
    fn a_seat_that_is_given_back_leaves_its_pod_until_etcd_has_stopped() {
        let root = tempfile::tempdir().unwrap();
        let args = testing::args(root.path());
        std::fs::create_dir_all(&args.static_pod_path).unwrap();
        let mut member = testing::member();
        let paths = args.paths(&member.spec.cluster_name);
        std::fs::create_dir_all(&paths.dir).unwrap();
        let mut seat = member.spec.seat.clone().unwrap();
        manifest::apply(&args, &member.spec.cluster_name, &seat, None, Replace::Idle).unwrap();
        write_order(&paths, member.spec.lineage, &seat).unwrap();
        let pod = args.static_pods().join(format!("etcd-{}.yaml", member.spec.cluster_name));

        member.spec.role = etcd_operator_api::member::Role::Candidate;
        (seat.order.run, seat.order.sequence) = (RunSpec::Stop, seat.order.sequence + 1);
        member.spec.seat = Some(seat.clone());
        crate::validate::validate(&member, &args).unwrap();
        for (phase, stays) in [(Phase::Running, true), (Phase::Draining, true), (Phase::Stopped, false)] {
            files::write_json(&paths.state(), &State { phase, ..State::default() }, files::SECRET).unwrap();
            give_back(&args, &member, &seat).unwrap();
            assert_eq!(pod.exists(), stays, "{phase:?}");
            assert_eq!(written(&paths).run, Run::Stop);
        }
        // Given away again: the very same pod.
        assert!(manifest::apply(&args, &member.spec.cluster_name, &seat, None, Replace::Idle).unwrap());
    }

    #[test]
    fn what_another_program_has_put_there_stays_and_the_datastores_order_is_no_other_clusters() {
        let root = tempfile::tempdir().unwrap();
        let mut args = testing::args(root.path());
        args.keeper_binary = root.path().join("binary");
        std::fs::create_dir_all(&args.static_pod_path).unwrap();
        std::fs::write(&args.keeper_binary, "one").unwrap();
        let mut member = testing::member();
        let paths = args.paths(&member.spec.cluster_name);
        std::fs::create_dir_all(&paths.dir).unwrap();
        let binary = Binary::new(args.keeper_binary.clone());
        let manifest = args.static_pods().join(format!("etcd-{}.yaml", member.spec.cluster_name));
        std::fs::write(&manifest, "kind: Pod").unwrap();
        let seat = member.spec.seat.clone().unwrap();
        let problem = apply(&args, &binary, &member, &seat, None).unwrap_err();
        assert!(problem.reason == Reason::NodeFiles && problem.message.contains("use another name"), "{problem:?}");
        assert!(!paths.order().exists(), "no keeper waits for it");
        // Also once the seat is given back, and an order of before lies there.
        write_order(&paths, member.spec.lineage, &seat).unwrap();
        member.spec.role = Role::Candidate;
        let mut gone = seat.clone();
        (gone.order.run, gone.order.sequence) = (RunSpec::Stop, seat.order.sequence + 1);
        assert!(give_back(&args, &member, &gone).is_err());
        assert_eq!(std::fs::read_to_string(&manifest).unwrap(), "kind: Pod");

        // The order of the datastore: another cluster of its name gets none here, however high it counts.
        let mut again = seat.clone();
        again.order.sequence = gone.order.sequence + 1;
        write_order(&paths, member.spec.lineage, &again).unwrap();
        let mut other = seat.clone();
        (other.order.sequence, other.order.client_url) = (99, seat.order.client_url.replace(":2379", ":22379"));
        assert_ne!(other.order.client_url, seat.order.client_url);
        let problem = write_order(&paths, member.spec.lineage, &other).unwrap_err();
        assert!(problem.message.contains("the cluster's own datastore"), "{problem:?}");
        assert_eq!(written(&paths).etcd.client_url, seat.order.client_url);
    }

    #[test]
    fn its_own_binary_is_offered_when_the_controller_wants_it_and_never_replaces_the_one_that_runs() {
        let root = tempfile::tempdir().unwrap();
        let mut args = testing::args(root.path());
        args.keeper_binary = root.path().join("binary");
        std::fs::create_dir_all(&args.static_pod_path).unwrap();
        let paths = args.paths("kube-etcd");
        let (mut member, mut seat) = (testing::member(), testing::member().spec.seat.unwrap());
        let mut apply = |seat: &Seat, text: &str| {
            // Another agent each time, as after an upgrade.
            std::fs::write(&args.keeper_binary, text).unwrap();
            member.spec.seat = Some(seat.clone());
            crate::validate::validate(&member, &args).unwrap();
            super::apply(&args, &Binary::new(args.keeper_binary.clone()), &member, seat, None).unwrap();
        };
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).ok();
        let hash = |text: &str| files::hex(&<sha2::Sha256 as sha2::Digest>::digest(text));
        std::fs::create_dir_all(&paths.dir).unwrap();
        apply(&seat, "one");
        assert_eq!((read(paths.keeper()).as_deref(), read(paths.keeper_next())), (Some("one"), None));
        // Another agent's: it is about to come.
        (seat.keeper, seat.order.sequence) = (Some(hash("two")), 5);
        apply(&seat, "one");
        assert_eq!((read(paths.keeper_next()), written(&paths).keeper), (None, seat.keeper.clone()));
        apply(&seat, "two");
        assert_eq!((read(paths.keeper()).as_deref(), read(paths.keeper_next()).as_deref()), (Some("one"), Some("two")));
        // Torn, or somebody else's.
        std::fs::write(paths.keeper_next(), "tw").unwrap();
        apply(&seat, "two");
        assert_eq!(read(paths.keeper_next()).as_deref(), Some("two"));
        // Refused, or done: nothing more to bring.
        let hand_over =
            HandOver { to: hash("two"), step: HandOverStep::Refused, message: String::new(), etcd: None, boot_id: String::new() };
        let refused = State { hand_over: Some(hand_over), keeper_binary: Some(hash("one")), ..State::default() };
        let done = State { keeper_binary: Some(hash("two")), ..State::default() };
        for state in [refused, done] {
            std::fs::remove_file(paths.keeper_next()).unwrap();
            files::write_json(&paths.state(), &state, files::SECRET).unwrap();
            apply(&seat, "two");
            assert_eq!(read(paths.keeper_next()), None);
            std::fs::write(paths.keeper_next(), "").unwrap();
        }
        assert_eq!(read(paths.keeper()).as_deref(), Some("one"));
    }

    #[test]
    fn a_member_is_here_while_its_manifest_lies_and_it_was_not_removed_whatever_its_keeper_says() {
        let root = tempfile::tempdir().unwrap();
        let args = testing::args(root.path());
        std::fs::create_dir_all(&args.static_pod_path).unwrap();
        let paths = args.paths("kube-etcd");
        std::fs::create_dir_all(&paths.dir).unwrap();
        let ran = State { ran_here: vec!["a".into(), "b".into()], phase: Phase::Waiting, ..State::default() };
        files::write_json(&paths.state(), &ran, files::SECRET).unwrap();
        assert!(!has_member(&args, "kube-etcd"), "no kubelet starts it");
        manifest::apply(&args, "kube-etcd", &testing::member().spec.seat.unwrap(), None, Replace::Idle).unwrap();
        assert!(has_member(&args, "kube-etcd"));
        files::write_json(&paths.state(), &State { removed: vec!["b".into()], ..ran }, files::SECRET).unwrap();
        assert!(!has_member(&args, "kube-etcd"));
    }

    #[test]
    fn an_order_to_stop_that_no_keeper_ever_read_stands_in_no_later_clusters_way() {
        let root = tempfile::tempdir().unwrap();
        let paths = testing::args(root.path()).paths("kube-etcd");
        std::fs::create_dir_all(&paths.dir).unwrap();
        let mut seat = testing::member().spec.seat.unwrap();
        (seat.order.run, seat.order.sequence) = (RunSpec::Stop, 5);
        write_order(&paths, 1, &seat).unwrap();
        let mut first = testing::member().spec.seat.unwrap();
        first.order.sequence = 1;
        let state = State::default();
        files::write_json(&paths.state(), &state, files::SECRET).unwrap();
        assert_eq!(write_order(&paths, 1, &first).unwrap_err().reason, Reason::OrderOlder);
        std::fs::remove_file(paths.state()).unwrap();
        write_order(&paths, 1, &first).unwrap();
        assert_eq!(written(&paths).sequence, 1);
    }

    #[test]
    fn a_torn_order_is_written_anew() {
        let root = tempfile::tempdir().unwrap();
        let paths = testing::args(root.path()).paths("kube-etcd");
        std::fs::create_dir_all(&paths.dir).unwrap();
        std::fs::write(paths.order(), "{\"format\":").unwrap();
        write_order(&paths, 0, &testing::member().spec.seat.unwrap()).unwrap();
        assert_eq!(written(&paths).member_name, "cp1-1");
    }

    #[test]
    fn no_order_is_written_that_the_keeper_cannot_read() {
        let root = tempfile::tempdir().unwrap();
        let paths = testing::args(root.path()).paths("kube-etcd");
        std::fs::create_dir_all(&paths.dir).unwrap();
        let state = State { reads_orders: vec![FORMAT + 1], ..State::default() };
        files::write_json(&paths.state(), &state, files::SECRET).unwrap();
        let seat = testing::member().spec.seat.unwrap();
        assert_eq!(write_order(&paths, 0, &seat).unwrap_err().reason, Reason::KeeperTooOld);
        assert!(!paths.order().exists());
    }

    #[test]
    fn the_keepers_state_becomes_status() {
        let root = tempfile::tempdir().unwrap();
        let paths = testing::args(root.path()).paths("kube-etcd");
        std::fs::create_dir_all(&paths.dir).unwrap();
        assert_eq!(keeper_status(&paths).unwrap(), None);
        let state = State {
            phase: Phase::Running,
            reason: "Started".into(),
            message: "m".into(),
            order_refused: Some("torn".into()),
            keeper_binary: Some("b1".into()),
            hand_over: Some(HandOver {
                to: "b2".into(),
                step: HandOverStep::Refused,
                message: "no luck".into(),
                etcd: None,
                boot_id: String::new(),
            }),
            ..State::default()
        };
        files::write_json(&paths.state(), &state, files::SECRET).unwrap();
        let status = keeper_status(&paths).unwrap().unwrap();
        assert_eq!(status.binary.as_deref(), Some("b1"));
        let refused = HandOverStatus { to: "b2".into(), step: KeeperHandOverStep::Refused, message: "no luck".into() };
        assert_eq!(status.hand_over, Some(refused));
        assert_eq!((status.phase.as_str(), status.message.as_str()), ("Running", "m; order refused: torn"));
    }
}
