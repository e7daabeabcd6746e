//! Checks before anything is changed: of etcd here, of each node by its agent.

use std::collections::BTreeMap;

use etcd_operator_api::member::{EtcdMember, Pod, PreflightSpec};
use etcd_operator_keeper::contract::QUOTA_BYTES;
use etcd_operator_plan::{HoldReason, Preflight, Readiness};
use kube::ResourceExt;
use semver::Version;

use super::members::Ports;
use super::memory::Memory;
use super::observe::{View, ips};
use super::{Context, ControllerError, members, pods, settings};

/// The oldest boot etcd that is accepted: the first 3.5 from which etcd's own upgrade path to 3.6 is safe (lessons, "etcd facts").
pub(crate) const OLDEST_BOOT: Version = Version::new(3, 5, 26);
/// The part of the quota that boot's database may have, %: what is written during the pivot comes on top.
const MOST_OF_QUOTA: u64 = 80;
/// How far a node's clock may be from the controller's, ms. A certificate begins a day in the past; etcd itself warns at 1 s.
const CLOCK_SKEW_MS: u64 = 10_000;
/// How long an agent may take before it is named as silent, ms.
const AGENT_ANSWERS_MS: u64 = 60_000;
/// How soon failed checks are made again, ms: what was wrong may have been put right.
const REPEAT_AFTER_MS: u64 = 30_000;

/// What the IDs of preflights begin with.
const ID: &str = "preflight";

/// What is known of the preflight.
pub(crate) fn evaluate(view: &View, memory: &Memory) -> Preflight {
    // Of a cluster that begins on its own it counts until there are seats: what listens at their ports is its own then.
    let has_seats = view.is_standalone() && !view.seats().is_empty();
    if has_seats || view.status.pivot.as_ref().is_some_and(|p| p.preflight_id.is_some()) {
        return Preflight::Passed;
    }
    if let Some((reason, message)) = of_cluster(view).or_else(|| of_boot(view)) {
        return Preflight::Failed { reason, message };
    }
    let Some((id, asked_ms)) = &memory.preflight else { return Preflight::NotRun };
    // Checks that are made again change nothing until all have answered.
    let before =
        memory.preflight_failed.clone().map(|message| Preflight::Failed { reason: HoldReason::PreflightFailed, message });
    let was_asked = |m: &&EtcdMember| m.spec.preflight.as_ref().is_some_and(|p| p.id == *id);
    if !asked(view).iter().all(was_asked) {
        return before.unwrap_or(Preflight::NotRun);
    }
    let mut silent = Vec::new();
    let mut failed = Vec::new();
    for member in asked(view) {
        let status = member.status.clone().unwrap_or_default();
        let Some(answer) = status.preflight.filter(|p| p.id == *id) else {
            // It has answered that it cannot.
            if status.observed_nonce == *id && !status.problem.is_empty() {
                failed.push(format!("{}: {}: {}", member.spec.node_name, status.problem, status.problem_message));
            }
            silent.push(member.spec.node_name.clone());
            continue;
        };
        failed.extend(
            answer.checks.iter().filter(|c| !c.ok).map(|c| format!("{}: {}: {}", member.spec.node_name, c.name, c.message)),
        );
        failed
            .extend(clock(view.now_ms, *asked_ms, status.clock_ms).map(|why| format!("{}: Clock: {why}", member.spec.node_name)));
        if !status.problem.is_empty() {
            failed.push(format!("{}: {}: {}", member.spec.node_name, status.problem, status.problem_message));
        }
    }
    failed.sort();
    failed.dedup();
    if !failed.is_empty() {
        return Preflight::Failed { reason: HoldReason::PreflightFailed, message: failed.join("; ") };
    }
    if silent.is_empty() {
        return match boot_process(view) {
            Some((reason, message)) => Preflight::Failed { reason, message },
            None => Preflight::Passed,
        };
    }
    if view.now_ms.saturating_sub(*asked_ms) > AGENT_ANSWERS_MS {
        let message = format!(
            "the agent on {} does not answer; look at its pod (kubectl -n {} get pods -l app.kubernetes.io/component=agent -o wide)",
            silent.join(", "),
            view.cluster.namespace().unwrap_or_default()
        );
        return Preflight::Failed { reason: HoldReason::PreflightFailed, message };
    }
    before.unwrap_or_else(|| Preflight::Pending { missing: silent.join(", ") })
}

/// Asks the agents once more, some time after a check on a node failed.
pub(crate) async fn repeat(context: &Context, view: &View, memory: &mut Memory, seen: &Preflight) -> Result<(), ControllerError> {
    let Preflight::Failed { reason: HoldReason::PreflightFailed, message } = seen else { return Ok(()) };
    if memory.preflight.as_ref().is_some_and(|(_, asked_ms)| view.now_ms.saturating_sub(*asked_ms) > REPEAT_AFTER_MS) {
        start(context, view, memory).await?;
        memory.preflight_failed = Some(message.clone());
    }
    Ok(())
}

/// The EtcdMembers whose agents are asked: ready eligible nodes, and boot's.
fn asked(view: &View) -> Vec<&EtcdMember> {
    let usable = |m: &&EtcdMember| {
        let node = view.nodes.iter().find(|n| n.name_any() == m.spec.node_name);
        node.is_some_and(|n| super::observe::readiness(n) != Readiness::NotReady)
    };
    view.members
        .iter()
        .filter(|m| m.spec.role != etcd_operator_api::member::Role::Boot)
        .filter(usable)
        .chain(view.boot_member())
        .collect()
}

fn clock(now_ms: u64, asked_ms: u64, theirs_ms: i64) -> Option<String> {
    let theirs = u64::try_from(theirs_ms).unwrap_or(0);
    let (earliest, latest) = (asked_ms.saturating_sub(CLOCK_SKEW_MS), now_ms + CLOCK_SKEW_MS);
    if (earliest..=latest).contains(&theirs) {
        return None;
    }
    let off = theirs.abs_diff(now_ms) / 1000;
    Some(format!("its clock is {off} s away from the controller's; set up time synchronisation (chrony)"))
}

fn of_cluster(view: &View) -> Option<(HoldReason, String)> {
    if let Err(why) = &view.ca {
        return Some((HoldReason::CaSecretUnusable, why.clone()));
    }
    let size = usize::try_from(view.cluster.spec.size).unwrap_or(0);
    if view.nodes.is_empty() {
        let labels: Vec<String> = view.cluster.spec.node_selector().into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        return Some((
            HoldReason::NoControlNode,
            format!("no node has the labels {}; label the control nodes or change spec.pod.nodeSelector", labels.join(",")),
        ));
    }
    if view.nodes.len() < size {
        let names: Vec<String> = view.nodes.iter().map(ResourceExt::name_any).collect();
        return Some((
            HoldReason::NotEnoughNodes,
            format!(
                "spec.size is {size}, but only {} node(s) match spec.pod.nodeSelector ({}); add nodes or lower spec.size",
                view.nodes.len(),
                names.join(", ")
            ),
        ));
    }
    let mut owners = BTreeMap::new();
    for node in &view.nodes {
        for ip in ips(node) {
            if let Some(other) = owners.insert(ip, node.name_any()) {
                let message = format!(
                    "nodes {other} and {} both claim {ip}; certificates name node IPs, so each must be unique",
                    node.name_any()
                );
                return Some((HoldReason::PreflightFailed, message));
            }
        }
    }
    if let Some(level) = view.pod_security.as_deref().filter(|level| *level != "privileged") {
        let namespace = view.cluster.namespace().unwrap_or_default();
        // The kubelet runs a static pod that admission refuses, but nobody sees it in the API.
        let message = format!(
            "namespace {namespace} enforces the pod security level {level:?}, which refuses the members' pods and the agents': kubectl label --overwrite namespace {namespace} pod-security.kubernetes.io/enforce=privileged"
        );
        return Some((HoldReason::PreflightFailed, message));
    }
    if view.repository.is_empty() {
        return Some((HoldReason::InvalidSpec, NO_REPOSITORY.into()));
    }
    of_pod(&pods::wanted(view)).map(|why| (HoldReason::InvalidSpec, why))
}

/// What is said where nothing names etcd's image.
pub(crate) const NO_REPOSITORY: &str =
    "spec.repository is empty and the controller has no --default-repository; name the repository of etcd's image";

/// What the agents would refuse once there are seats is said before: in the words of the EtcdCluster, and with nothing to be taken back.
pub(crate) fn of_pod(pod: &Pod) -> Option<String> {
    let problem = etcd_operator_agent::validate_pod(pod).err()?;
    let fields = [("image", "repository"), ("labels", "pod.labels"), ("annotations", "pod.annotations")];
    let resources = [("requests", "pod.resources.requests"), ("limits", "pod.resources.limits")];
    let in_the_users_words =
        |text: String, (ours, theirs): (&str, &str)| text.replace(&format!("spec.seat.{ours}"), &format!("spec.{theirs}"));
    Some(fields.into_iter().chain(resources).fold(problem.message, in_the_users_words))
}

fn of_boot(view: &View) -> Option<(HoldReason, String)> {
    let Ok(reading) = &view.etcd else { return None };
    if reading.members.len() > 1 {
        let names: Vec<String> = reading.members.iter().map(|(m, _)| format!("{} ({})", m.name, m.peer_urls.join(","))).collect();
        return Some((
            HoldReason::BootNotAlone,
            format!(
                "boot must be the only member of its cluster, but etcd lists {}; a pivot starts from one boot etcd",
                names.join(", ")
            ),
        ));
    }
    let (member, status) = reading.members.first()?;
    if let Some(url) =
        member.peer_urls.iter().find(|u| u.contains("//127.") || u.contains("//localhost") || u.contains("//[::1]"))
    {
        return Some((
            HoldReason::BootPeerUrlLoopback,
            format!(
                "boot's peer URL is {url}, which no other node reaches; run `etcdctl member update {} --peer-urls=https://<boot's node IP>:<peer port>`",
                member.id
            ),
        ));
    }
    if let Some(url) = member.peer_urls.iter().find(|u| members::address(u).parse::<std::net::SocketAddr>().is_err()) {
        return Some((
            HoldReason::PreflightFailed,
            format!(
                "boot's peer URL is {url}; it must be https://<IP>:<port>, as names need a DNS that may run on this very etcd: run `etcdctl member update {} --peer-urls=https://<boot's node IP>:<peer port>`",
                member.id
            ),
        ));
    }
    let bytes = u64::try_from(status.as_ref()?.db_size).unwrap_or(0);
    if bytes > QUOTA_BYTES / 100 * MOST_OF_QUOTA {
        return Some((
            HoldReason::PreflightFailed,
            format!(
                "boot's database has {} MiB, more than {MOST_OF_QUOTA} % of the members' quota of {} MiB, at which etcd stops all writes; compact and defragment boot first",
                bytes >> 20,
                QUOTA_BYTES >> 20
            ),
        ));
    }
    let version = status.as_ref()?.version.parse::<Version>().ok()?;
    if version < OLDEST_BOOT {
        return Some((HoldReason::BootTooOld, format!("boot runs etcd {version}; upgrade it to {OLDEST_BOOT} or newer first")));
    }
    let wanted = view.cluster.spec.plain_version().parse::<Version>().ok()?;
    if (wanted.major, wanted.minor) != (version.major, version.minor) {
        return Some((
            HoldReason::InvalidSpec,
            format!(
                "spec.version is {wanted}, boot runs {version}: they must be of one minor version during the pivot; set spec.version to a {}.{}.x",
                version.major, version.minor
            ),
        ));
    }
    None
}

fn boot_process(view: &View) -> Option<(HoldReason, String)> {
    let member = view.boot_member()?;
    let boot = member.status.clone().unwrap_or_default().boot.unwrap_or_default();
    if (boot.process_found && boot.manifest.is_some()) || super::stopper::is_command(view) {
        return None;
    }
    Some((
        HoldReason::BootProcessNotFound,
        format!(
            "boot answers at {}, but the agent on {} finds {} of it; boot must be a static pod of that node, or be stopped by a command (pivot --boot-command): {}",
            view.boot_endpoint().unwrap_or_default(),
            member.spec.node_name,
            if boot.process_found { "no static pod manifest" } else { "no etcd process" },
            boot.message
        ),
    ))
}

/// Asks the agents.
pub(crate) async fn start(context: &Context, view: &View, memory: &mut Memory) -> Result<(), ControllerError> {
    let mine = memory.preflight.as_ref().map(|(id, _)| id.as_str());
    let theirs = asked(view).into_iter().filter_map(|m| m.spec.preflight.as_ref()).map(|p| p.id.as_str()).max();
    let id = members::newer(ID, mine, theirs).map_or_else(|| members::ask(ID, view.now_ms), str::to_owned);
    let boot = view.etcd.as_ref().ok().and_then(|r| r.members.first()).map(|(m, _)| m.clone());
    let mut reach: Vec<String> = view.boot_endpoint().map(members::address).into_iter().collect();
    reach.extend(boot.iter().flat_map(|m| m.peer_urls.iter()).map(|u| members::address(u)));
    let ip_of = |node| ips(node).first().map(ToString::to_string);
    let seats: Vec<String> =
        view.nodes.iter().filter_map(ip_of).map(|ip| format!("https://{ip}:{}", view.ports().client)).collect();
    let image = Some(pods::wanted(view).image);
    let seeded =
        || view.etcd.as_ref().ok().and_then(|r| r.members.first()).and_then(|(_, s)| s.as_ref()).map(|s| room_for(s.db_size));
    // Its data lies beside that of the datastore, which must not be without room because this one is full.
    let need_bytes = if view.is_standalone() { Some(settings::wanted(view).quota_backend_bytes) } else { seeded() };
    for member in asked(view) {
        let node = view.nodes.iter().find(|n| n.name_any() == member.spec.node_name);
        let is_boot = member.spec.role == etcd_operator_api::member::Role::Boot;
        let addresses = node.map(ips).unwrap_or_default();
        let ports = if is_boot {
            Vec::new()
        } else {
            ports(view.ports(), &addresses.first().map(ToString::to_string).unwrap_or_default())
        };
        let preflight =
            PreflightSpec { id: id.clone(), image: image.clone(), need_bytes, seats: seats.clone(), ports, reach: reach.clone() };
        members::change(context, member, |spec| {
            spec.nonce.clone_from(&id);
            spec.preflight = Some(preflight.clone());
        })
        .await?;
    }
    let asked_ms = members::asked_at(ID, &id).unwrap_or(view.now_ms);
    memory.preflight = Some((id, asked_ms));
    memory.preflight_failed = None;
    Ok(())
}

/// Bytes that a member of such a database needs: itself, a snapshot of it that is being received, and the log (some segments of 64 MB).
fn room_for(db_size: i64) -> i64 {
    db_size.saturating_mul(2).saturating_add(256 << 20)
}

fn ports(ports: Ports, ip: &str) -> Vec<String> {
    let on_node = [ports.client, ports.peer].map(|p| format!("{ip}:{p}"));
    let local = [ports.metrics, ports.client_http, ports.probe].map(|p| format!("127.0.0.1:{p}"));
    on_node.into_iter().chain(local).collect()
}
