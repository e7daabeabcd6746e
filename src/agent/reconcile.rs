//! One pass over one EtcdMember: what the spec asks for is done on the node, what is seen there becomes the status. Each step stands for
//! itself: one that fails is reported and does not keep the others from being done.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use etcd_operator_api::member::{
    ApiServerStatus, Csr, DataSize, EtcdMember, EtcdMemberStatus, KeeperStatus, PodStatus, PreflightStatus, ProofStatus, Role,
    SnapshotStatus,
};
use etcd_operator_client::clock;
use tokio::sync::Notify;

use crate::backups::Backups;
use crate::boot::{Boot, Place, find, snapshot};
use crate::disk;
use crate::host::Agent;
use crate::jobs::Job;
use crate::measure;
use crate::pki::{self, Servers};
use crate::preflight;
use crate::problem::{Problem, Reason};
use crate::proof;
use crate::seat::{self, Asked};
use crate::sockets;
use crate::validate::validate;

/// How often a pass is made when nothing happens: files of the keeper change without an event.
const TICK: Duration = Duration::from_secs(1);
/// While clients are counted or boot is drained.
const FAST_TICK: Duration = Duration::from_millis(500);

/// How often API servers are looked for: all processes are looked at.
const API_SERVERS_EVERY: Duration = Duration::from_secs(10);

/// How long an API server may be away and still counts as one that is being started again.
const API_SERVER_RESTARTS_WITHIN: Duration = Duration::from_secs(600);

/// What is remembered about one EtcdMember between passes.
pub(crate) struct Memory {
    agent: Arc<Agent>,
    /// Wakes the next pass.
    pub(crate) changed: Arc<Notify>,
    /// The nonce seen last, and when (the node's clock, ms).
    echo: Option<(String, i64)>,
    boot: Boot,
    preflight: Job<PreflightStatus>,
    snapshot: Job<SnapshotStatus>,
    backups: Backups,
    reads_log: Job<bool>,
    /// Whose log which version was found to read: that stays so, whatever the log begins with later.
    log_is_read: Option<String>,
    api_servers: Option<ApiServersSeen>,
}

struct ApiServersSeen {
    /// When they were looked for last.
    looked: clock::Instant,
    /// When one was there last.
    there: clock::Instant,
    lists: Vec<ApiServerStatus>,
}

impl Memory {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self {
            agent,
            changed: Arc::new(Notify::new()),
            echo: None,
            boot: Boot::default(),
            preflight: Job::default(),
            snapshot: Job::default(),
            backups: Backups::default(),
            reads_log: Job::default(),
            log_is_read: None,
            api_servers: None,
        }
    }

    /// How long to wait until the next pass.
    pub(crate) fn tick(&self, member: &EtcdMember) -> Duration {
        if !member.spec.count_clients.is_empty() || self.boot.busy() { FAST_TICK } else { TICK }
    }

    /// One pass. Never fails as a whole: what failed stands in the status.
    pub(crate) async fn pass(&mut self, member: &Arc<EtcdMember>) -> EtcdMemberStatus {
        let before = member.status.clone().unwrap_or_default();
        let clock_ms = self.echo(member, &before);
        if let Err(problem) = validate(member, &self.agent.args) {
            // What was reported before stays: an invalid spec makes nothing of it untrue.
            let mut status = EtcdMemberStatus { clock_ms, ..before };
            self.head(member, &mut status);
            explain(&mut status, &[problem]);
            return status;
        }

        let (agent, subject) = (Arc::clone(&self.agent), Arc::clone(member));
        let look = self.api_servers.as_ref().is_none_or(|seen| clock::instant().duration_since(seen.looked) >= API_SERVERS_EVERY);
        let place = Place::new(&self.agent, &member.spec.cluster_name, &self.changed);
        let pki = place.pki().to_owned();
        let asked = seat::ask(&self.agent, member).await;
        // Disks can stall for seconds: not on the threads that carry timers and connections.
        let mut seen = tokio::task::spawn_blocking(move || on_disk(&agent, &subject, &pki, look, asked.as_ref()))
            .await
            .unwrap_or_else(|error| {
                let problem = Problem::new(Reason::NodeFiles, format!("the pass ended early: {error}; see the agent's log"));
                Seen { problems: vec![problem], ..Seen::default() }
            });

        let mut status = EtcdMemberStatus {
            clock_ms,
            csr: seen.csr,
            file_system: seen.file_system,
            keeper: seen.keeper,
            pod: seen.pod,
            proof: seen.proof,
            data: seen.data,
            ..EtcdMemberStatus::default()
        };
        self.head(member, &mut status);
        if let Some(spec) = &member.spec.boot {
            status.boot = Some(self.boot.pass(&place, spec));
        }
        status.address_gone = seat::address(member).is_some_and(|ip| !self.agent.host.has_address(ip));
        status.api_servers = self.api_servers(seen.api_servers, &before);
        self.count(member, &mut status, &mut seen.problems);
        self.preflight(member, &before, &mut status);
        self.snapshot(member, &place, &mut status, &mut seen.problems);
        status.backups = self.backups.pass(&self.agent, member, &before.backups, &self.changed);
        self.reads_log(member, &mut status, &mut seen.problems);
        explain(&mut status, &seen.problems);
        status
    }

    fn head(&self, member: &EtcdMember, status: &mut EtcdMemberStatus) {
        status.observed_nonce.clone_from(&member.spec.nonce);
        status.observed_generation = member.metadata.generation;
        status.agent_version = env!("CARGO_PKG_VERSION").to_owned();
        status.offers = self.agent.binary.known().map(str::to_owned);
    }

    /// The node's clock when this nonce was seen first; it must not change at rest.
    fn echo(&mut self, member: &EtcdMember, before: &EtcdMemberStatus) -> i64 {
        let nonce = &member.spec.nonce;
        match &self.echo {
            Some((seen, time)) if seen == nonce => *time,
            // A restarted agent keeps what its predecessor said: no new nonce, no news.
            None if before.observed_nonce == *nonce && before.clock_ms != 0 => {
                self.echo = Some((nonce.clone(), before.clock_ms));
                before.clock_ms
            }
            _ => {
                let now = i64::try_from(clock::now_ms()).unwrap_or(i64::MAX);
                self.echo = Some((nonce.clone(), now));
                now
            }
        }
    }

    /// The API servers of this node. One that is being started again is not none: what was seen last counts for a while.
    fn api_servers(&mut self, found: Option<Vec<ApiServerStatus>>, before: &EtcdMemberStatus) -> Vec<ApiServerStatus> {
        let now = clock::instant();
        let last =
            self.api_servers.get_or_insert_with(|| ApiServersSeen { looked: now, there: now, lists: before.api_servers.clone() });
        if let Some(found) = found {
            last.looked = now;
            if !found.is_empty() || now.duration_since(last.there) >= API_SERVER_RESTARTS_WITHIN {
                (last.there, last.lists) = (now, found);
            }
        }
        last.lists.clone()
    }

    fn count(&self, member: &EtcdMember, status: &mut EtcdMemberStatus, problems: &mut Vec<Problem>) {
        if member.spec.count_clients.is_empty() && member.spec.count_own.is_empty() {
            return;
        }
        match sockets::read(&self.agent.args) {
            Ok(all) => {
                status.clients = sockets::clients(&all, &addresses(&member.spec.count_clients));
                let inodes = sockets::own_inodes(&self.agent.args.proc);
                status.own = sockets::own(&all, &addresses(&member.spec.count_own), self.agent.args.controller_uid, &inodes);
            }
            Err(problem) => problems.push(problem),
        }
    }

    /// Whether the etcd that was proven reads the log of this node's own member. Looked at again when that begins with another snapshot.
    fn reads_log(&mut self, member: &EtcdMember, status: &mut EtcdMemberStatus, problems: &mut Vec<Problem>) {
        let (Some(seat), Some(proof)) = (&member.spec.seat, &mut status.proof) else { return };
        if proof.version.is_empty() {
            return;
        }
        let data_dir = self.agent.args.paths(&member.spec.cluster_name).member(&seat.order.member_name);
        let whose = format!("{} {}", seat.order.member_name, proof.version);
        if self.log_is_read.as_ref() == Some(&whose) {
            proof.reads_log = Some(true);
            return;
        }
        let id = format!("{whose} {}", proof::newest_snapshot(&data_dir));
        self.reads_log.want(&self.agent, &id, &self.changed, || proof::reads_log(proof.version.clone(), data_dir));
        match self.reads_log.outcome(&id) {
            Some(Ok(reads)) => {
                proof.reads_log = Some(reads);
                self.log_is_read = reads.then_some(whose);
            }
            Some(Err(why)) => problems.push(Problem::new(Reason::NodeFiles, why)),
            None => {}
        }
    }

    /// A snapshot of this node's own member.
    fn snapshot(&self, member: &EtcdMember, place: &Place, status: &mut EtcdMemberStatus, problems: &mut Vec<Problem>) {
        let Some(seat) = member.spec.seat.as_ref().filter(|_| member.spec.role == Role::Member) else { return };
        let Some(id) = &seat.snapshot else { return };
        let paths = self.agent.args.paths(&member.spec.cluster_name);
        let take =
            || snapshot::take(place.clone(), paths.pki(), format!("member-{id}"), id.clone(), seat.order.client_url.clone());
        self.snapshot.want(&self.agent, id, &self.changed, take);
        match self.snapshot.outcome(id) {
            Some(Ok(taken)) => status.snapshot = Some(taken),
            Some(Err(why)) => problems.push(Problem::new(Reason::NodeFiles, why)),
            None => {}
        }
    }

    fn preflight(&self, member: &EtcdMember, before: &EtcdMemberStatus, status: &mut EtcdMemberStatus) {
        let Some(spec) = &member.spec.preflight else { return };
        // Answered by an earlier agent: once per ID.
        if let Some(done) = before.preflight.as_ref().filter(|done| done.id == spec.id) {
            status.preflight = Some(done.clone());
            return;
        }
        let (agent, wanted) = (Arc::clone(&self.agent), spec.clone());
        let place = Place::new(&self.agent, &member.spec.cluster_name, &self.changed);
        let boot = member.spec.boot.clone().map(|boot| (place, boot));
        self.preflight.want(
            &self.agent,
            &spec.id,
            &self.changed,
            || async move { Ok(preflight::run(agent, wanted, boot).await) },
        );
        status.preflight = self.preflight.outcome(&spec.id).and_then(Result::ok);
    }
}

/// What the steps on the disk came to.
#[derive(Default)]
struct Seen {
    csr: Option<Csr>,
    file_system: Option<String>,
    keeper: Option<KeeperStatus>,
    pod: Option<PodStatus>,
    proof: Option<ProofStatus>,
    data: Option<DataSize>,
    /// `None` = not looked for.
    api_servers: Option<Vec<ApiServerStatus>>,
    problems: Vec<Problem>,
}

fn on_disk(agent: &Agent, member: &EtcdMember, boot_pki: &std::path::Path, look: bool, asked: Option<&Asked>) -> Seen {
    let args = &agent.args;
    // Read here for the first time, for the status.
    agent.binary.own();
    let spec = &member.spec;
    let paths = args.paths(&spec.cluster_name);
    let mut seen = Seen::default();
    if look && spec.role != Role::Boot {
        let lists = find::api_servers(&args.proc).into_iter().map(|etcd_servers| ApiServerStatus { etcd_servers });
        // In an order of their own: at rest the same as before.
        seen.api_servers = Some(lists.collect::<std::collections::BTreeSet<_>>().into_iter().collect());
    }
    let (pki, servers) = match spec.role {
        Role::Boot => (boot_pki.to_owned(), Servers::No),
        Role::Candidate | Role::Member => (paths.pki(), Servers::Yes),
    };
    // Keys.
    match pki::requests(&pki, &spec.node_name, servers) {
        Ok(csr) => seen.csr = Some(csr),
        Err(problem) => seen.problems.push(problem),
    }
    // Certificates.
    let certified = match &spec.certificates {
        Some(certificates) => {
            match pki::install(&pki, certificates, spec.role != Role::Boot && seat::has_member(args, &spec.cluster_name)) {
                Ok(()) => true,
                Err(problem) => {
                    seen.problems.push(problem);
                    false
                }
            }
        }
        None => false,
    };
    match spec.role {
        // What runs for boot on this node is none of ours.
        Role::Boot => return seen,
        Role::Candidate => {
            if let Some(seat) = &spec.seat
                && let Err(problem) = seat::give_back(args, member, seat)
            {
                seen.problems.push(problem);
            }
        }
        Role::Member => match disk::prepare(&paths) {
            Ok(file_system) => {
                seen.file_system = Some(file_system);
                if let Some(seat) = spec.seat.as_ref().filter(|_| certified)
                    && let Err(problem) = seat::apply(args, &agent.binary, member, seat, asked)
                {
                    seen.problems.push(problem);
                }
            }
            Err(problem) => seen.problems.push(problem),
        },
    }
    if let Some(seat) = spec.seat.as_ref().filter(|s| s.measure_data) {
        let name = &seat.order.member_name;
        seen.data = measure::data(&paths.member(name), name);
    }
    let mut problems = Vec::new();
    seen.keeper = noted(seat::keeper_status(&paths), &mut problems);
    seen.pod = noted(seat::pod_status(args, &spec.cluster_name, asked), &mut problems);
    let prove = spec.seat.as_ref().and_then(|seat| seat.prove.as_deref());
    seen.proof = noted(proof::status(args, &spec.cluster_name, prove), &mut problems);
    seen.problems.append(&mut problems);
    seen
}

fn noted<T>(read: Result<Option<T>, Problem>, problems: &mut Vec<Problem>) -> Option<T> {
    read.unwrap_or_else(|problem| {
        problems.push(problem);
        None
    })
}

/// Validated before.
fn addresses(list: &[String]) -> Vec<SocketAddr> {
    list.iter().filter_map(|address| address.parse().ok()).collect()
}

/// One word, the first step's; all messages.
fn explain(status: &mut EtcdMemberStatus, problems: &[Problem]) {
    status.problem = problems.first().map(|problem| problem.reason.word().to_owned()).unwrap_or_default();
    status.problem_message = problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ");
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
