//! Ordering a recovery: what must be so before, the order itself, and staying with it until it is done. The keeper carries it out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use etcd_operator_etcd::client::{EtcdClient, Tls};
use etcd_operator_keeper::binary::boot_id;
use etcd_operator_keeper::contract::{FORMAT, Paths, Recovery, RecoveryState, RecoveryStep, Source, State};
use etcd_operator_keeper::disk;
use etcd_operator_keeper::files::{Found, read, write};
use etcd_operator_keeper::order::address;

use super::{Here, Report, compare, read_reports};
use crate::cli::fail;
use crate::snapshot::{Format, Output, make_plain};

/// How long the keeper may take to look at the order. It looks ten times a second; before that it may stop an etcd, which takes up to 30 s.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked how far it is.
const POLL: Duration = Duration::from_millis(200);
/// For another member to answer.
const ASK: Duration = Duration::from_secs(3);
/// The free space that is asked for is that of so many copies of the database, at most: the one that it is made of, and the new one.
const COPIES: u64 = 2;

/// What must be said of the rest of the cluster.
#[derive(Args)]
pub(super) struct Rest {
    /// A node of the cluster that is not this one, by its address: it is powered off, its disk is lost, or `recover retire` was run there. Each must be named. One
    /// that was powered off must not come up where it cannot reach this node: two of them would be the old cluster.
    #[arg(long = "gone", value_name = "ADDRESS", value_delimiter = ',')]
    gone: Vec<String>,
    /// Go on although the cluster was recovered on another node, as this one has heard: that node is lost, with all that was written there.
    #[arg(long)]
    recovered_node_is_lost: bool,
    /// Print what would be done, and end.
    #[arg(long)]
    dry_run: bool,
}

/// What is ordered.
fn recovery(kind: &str, lineage: u64, from: Source, other_is_lost: bool) -> Recovery {
    let id = crate::controller::unique_id(kind);
    Recovery { format: FORMAT, id, lineage, from, other_is_lost, boot_id: boot_id(), ordered_ms: crate::clock::now_ms() }
}

#[derive(Args)]
pub(super) struct FromSurvivor {
    #[command(flatten)]
    here: Here,
    #[command(flatten)]
    rest: Rest,
    /// Reports of the other nodes that still have data (`recover inspect -o json`): this one must have the most.
    #[arg(long = "report", value_name = "FILE")]
    reports: Vec<PathBuf>,
    /// Go on although writes that were acknowledged may be missing in the data of this node.
    #[arg(long)]
    may_lose_writes: bool,
}

#[derive(Args)]
pub(super) struct FromSnapshot {
    /// The backup (`.db.zst`), or a plain snapshot (`.db`) as etcdctl saves it.
    snapshot: PathBuf,
    #[command(flatten)]
    here: Here,
    #[command(flatten)]
    rest: Rest,
}

#[derive(Args)]
pub(super) struct Retire {
    #[command(flatten)]
    here: Here,
    /// Print what would be done, and end.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    here: Here,
    #[command(flatten)]
    format: Format,
}

impl FromSurvivor {
    pub(super) async fn run(self) -> Result<(), String> {
        let report = self.here.inspect().await?;
        no_quorum(&report)?;
        let Some(own) = report.own() else {
            let why = report.data.iter().find(|data| data.is_own).map_or("there is none", |data| data.problem.as_str());
            let removed = if report.removed { "its member was removed from the cluster; " } else { "" };
            return Err(format!(
                "this node has no data to begin from: {removed}{why}. Recover from a backup (recover from-snapshot)"
            ));
        };
        let others = read_reports(&self.reports)?;
        let all: Vec<Report> = others.iter().chain([&report]).cloned().collect();
        let verdict = compare(&all);
        if verdict.survivor.as_ref() != Some(&report.node) {
            return Err(format!("not from this node: {}", verdict.words()));
        }
        println!("{}", verdict.words());
        if !verdict.complete && !self.may_lose_writes {
            return Err("writes that were acknowledged may be missing on this node: hand in the reports of the others (--report), or say that it may be so \
                        (--may-lose-writes)"
                .into());
        }
        let paths = self.here.paths();
        rest_is_gone(&paths, &report, &self.rest).await?;
        let source = Source::Survivor { member: own.member_id.clone(), last_term: own.last_term, last_index: own.last_index };
        let recovery = recovery("recover", next_lineage(&report, &others), source, self.rest.recovered_node_is_lost);
        let place = paths.member(&own.name);
        room(&paths, disk::size(&place).map_err(|error| format!("{}: {error}", place.display()))?)?;
        let steps = [
            format!("stop etcd; copy the data of member {} to {}", own.member_id, paths.recovery().display()),
            format!("have an etcd apply all of its log there, up to term {} and index {}", own.last_term, own.last_index),
        ];
        begin(&paths, &recovery, &report, self.rest.dry_run, &steps, None).await
    }
}

impl FromSnapshot {
    pub(super) async fn run(self) -> Result<(), String> {
        let report = self.here.inspect().await?;
        no_quorum(&report)?;
        let paths = self.here.paths();
        rest_is_gone(&paths, &report, &self.rest).await?;
        if let Some(own) = report.own() {
            println!(
                "note: this node has whole data of its member, up to term {} and index {}: `recover from-survivor` may lose less",
                own.last_term, own.last_index
            );
        }
        let length = std::fs::metadata(&self.snapshot).map_err(|error| format!("{}: {error}", self.snapshot.display()))?.len();
        room(&paths, length)?;
        let lineage = next_lineage(&report, &[]);
        let recovery = recovery("recover", lineage, Source::Snapshot, self.rest.recovered_node_is_lost);
        let steps =
            [format!("stop etcd; read {} to its end and put it into {}", self.snapshot.display(), paths.recovery().display())];
        begin(&paths, &recovery, &report, self.rest.dry_run, &steps, Some(&self.snapshot)).await
    }
}

impl Retire {
    pub(super) async fn run(self) -> Result<(), String> {
        let report = self.here.inspect().await?;
        no_quorum(&report)?;
        if report.is_retired {
            println!("{} was retired already", report.node);
            return Ok(());
        }
        let recovery = recovery("retire", report.lineage.max(1) + 1, Source::Retire, false);
        begin(&self.here.paths(), &recovery, &report, self.dry_run, &["stop etcd".to_owned()], None).await
    }
}

impl Status {
    pub(super) fn run(self) -> ExitCode {
        let paths = self.here.paths();
        let state = match read::<State>(&paths.state()) {
            Found::Whole(state) => state,
            Found::Missing => return fail(&format!("there is no {}", paths.state().display())),
            Found::Unusable(why) => return fail(&format!("{} {why}", paths.state().display())),
        };
        match (self.format.output, &state.recovery) {
            (Output::Json, recovery) => {
                println!("{}", serde_json::json!({ "recovery": recovery, "phase": state.phase, "reason": state.reason }))
            }
            (Output::Table, None) => println!("no recovery was ever ordered on this node"),
            (Output::Table, Some(recovery)) => {
                println!("{}", words(recovery));
                println!("keeper: {:?} {}: {}", state.phase, state.reason, state.message);
            }
        }
        ExitCode::SUCCESS
    }
}

fn no_quorum(report: &Report) -> Result<(), String> {
    if report.quorum.is_some() {
        return Err(report.quorum_words());
    }
    if report.own_endpoint.is_empty() || report.cluster_id.is_empty() {
        return Err(format!(
            "this node never had a member, so it knows neither the cluster nor addresses to serve at: {}. Begin on a node that had a member; without any, restore a backup \
             into the boot etcd of an installer, and pivot",
            report.message
        ));
    }
    Ok(())
}

/// Higher than any that this node, or the others that are compared, know of. Those that were retired for this very recovery have heard of it already.
fn next_lineage(own: &Report, others: &[Report]) -> u64 {
    let others = others.iter().map(|other| if other.is_retired { other.lineage } else { other.known_lineage });
    others.chain([own.known_lineage, own.lineage]).max().unwrap_or(0).max(1) + 1
}

/// All others of the cluster are named, and none of them runs an etcd.
async fn rest_is_gone(paths: &Paths, report: &Report, rest: &Rest) -> Result<(), String> {
    let tls = Tls::read(&paths.pki()).map_err(|error| format!("{}: {error}", paths.pki().display()))?;
    for endpoint in report.endpoints.iter().filter(|endpoint| **endpoint != report.own_endpoint) {
        let client = EtcdClient::new(endpoint, &tls).await.map_err(|error| error.to_string())?;
        let Ok(status) = client.status(ASK).await else { continue };
        let cluster = status.cluster_id.to_string();
        return Err(if cluster == report.cluster_id {
            format!("an etcd of this cluster runs at {endpoint}: run `recover retire` on that node, or power it off")
        } else {
            format!(
                "{endpoint} is of another cluster ({cluster}): was this one recovered there already? Then run nothing here but `recover retire`"
            )
        });
    }
    let voters = report.own().and_then(|own| own.voters.iter().map(Vec::len).max()).unwrap_or(0);
    are_named(report, &rest.gone, voters)
}

/// Whether a human has said of each other member that it is gone.
fn are_named(report: &Report, gone: &[String], voters: usize) -> Result<(), String> {
    // However it is written: an address, with a port, a URL.
    let ip = |text: &str| {
        let plain = text.trim_start_matches("https://");
        address(&format!("https://{plain}")).map_or_else(|| plain.to_owned(), |address| address.ip().to_string())
    };
    // What else was on this very node, as the boot etcd of the pivot, has just not answered.
    let own = ip(&report.own_endpoint);
    let mut named: Vec<String> = gone.iter().map(|gone| ip(gone)).filter(|gone| *gone != own).collect();
    named.sort();
    named.dedup();
    let unnamed: Vec<&str> = report
        .endpoints
        .iter()
        .filter(|endpoint| ip(endpoint) != own && !named.contains(&ip(endpoint)))
        .map(String::as_str)
        .collect();
    if !unnamed.is_empty() {
        return Err(format!(
            "nobody has said what became of the members at {}: power them off or run `recover retire` there, and name each with --gone",
            unnamed.join(", ")
        ));
    }
    if voters > named.len() + 1 {
        return Err(format!(
            "the log here says that {voters} members vote, and {} others are named: name each with --gone, also those that this node does not know",
            named.len()
        ));
    }
    Ok(())
}

fn room(paths: &Paths, database: u64) -> Result<(), String> {
    let stat = rustix::fs::statvfs(&paths.data).map_err(|error| format!("{}: {error}", paths.data.display()))?;
    let (free, needed) = (stat.f_bavail.saturating_mul(stat.f_frsize), database.saturating_mul(COPIES));
    if free < needed {
        return Err(format!(
            "{}: {} MiB are free, and {} are needed for what is made on the way; the archive there may hold what nobody needs any more",
            paths.data.display(),
            free >> 20,
            needed >> 20
        ));
    }
    Ok(())
}

/// Writes the order and stays until it is done.
async fn begin(
    paths: &Paths,
    recovery: &Recovery,
    report: &Report,
    dry_run: bool,
    first: &[String],
    snapshot: Option<&Path>,
) -> Result<(), String> {
    let mut steps = first.to_vec();
    if recovery.from == Source::Retire {
        steps.push("wait for a member of the recovered cluster; the data here stays where it is and is not started again".into());
    } else {
        steps.push("make the data of a new cluster of one member: a new cluster ID, the revision at least 1,000,000,000 higher, all before it compacted".into());
        steps.push(format!("move the old data to {}", paths.archive().display()));
        steps.push(format!("start etcd at {}, in lineage {}", report.own_endpoint, recovery.lineage));
    }
    let head = if dry_run { "would be done" } else { "what is done" };
    println!("{head} on {}, by its keeper:", report.node);
    for (n, step) in steps.iter().enumerate() {
        println!("  {}. {step}", n + 1);
    }
    if dry_run {
        return Ok(());
    }
    if let Found::Whole(open) = read::<Recovery>(&paths.recovery_order())
        && let Some(state) = state(paths)
        && !state.consumed.contains(&open.id)
    {
        return Err(format!("a recovery is open on this node already ({}): `recover status` says how far it is", open.id));
    }
    if let Some(snapshot) = snapshot {
        let place = paths.snapshot_to_recover(&recovery.id);
        let dir = paths.recovery();
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        println!("reading {} ...", snapshot.display());
        let proven = make_plain(snapshot, &place).await?;
        println!("a whole snapshot of {} bytes", proven.db_bytes);
        if let Err(why) = room(paths, proven.db_bytes / COPIES) {
            let _ = std::fs::remove_file(&place);
            return Err(why);
        }
    }
    write(&paths.recovery_order(), recovery).map_err(|error| format!("{}: {error}", paths.recovery_order().display()))?;
    println!(
        "ordered as {}; the keeper goes on with it also without this command, once no quorum has answered for 10 s",
        recovery.id
    );
    let done = follow(paths, recovery).await?;
    // It is done with: nothing reads it again.
    let _ = std::fs::remove_file(paths.recovery_order());
    println!("{}", words(&done));
    match (done.step, &recovery.from) {
        (RecoveryStep::Failed, _) => Err("nothing was changed: the old data is where it was".into()),
        (_, Source::Retire) => Ok(()),
        _ => {
            println!(
                "next: 1. restart the API server of this node, then those of the others: they have seen a later life of what they cache. 2. Start the other nodes. The \
                 controller gives them new members, up to the size of the EtcdCluster"
            );
            Ok(())
        }
    }
}

/// Prints how far it is, until it is done or failed.
async fn follow(paths: &Paths, recovery: &Recovery) -> Result<RecoveryState, String> {
    let began = Instant::now();
    let mut said = String::new();
    loop {
        let seen = state(paths).and_then(|state| state.recovery).filter(|seen| seen.id == recovery.id);
        match seen {
            Some(seen) if matches!(seen.step, RecoveryStep::Done | RecoveryStep::Failed) => return Ok(seen),
            Some(seen) if seen.message != said => {
                println!("  {} s: {}", began.elapsed().as_secs(), seen.message);
                said = seen.message;
            }
            Some(_) => {}
            None if began.elapsed() > SEEN_WITHIN => return Err(withdraw(paths, recovery).await),
            None => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

/// An order that nobody has seen must not be carried out on another day.
async fn withdraw(paths: &Paths, recovery: &Recovery) -> String {
    let removed = std::fs::remove_file(paths.recovery_order());
    let _ = std::fs::remove_file(paths.snapshot_to_recover(&recovery.id));
    tokio::time::sleep(POLL * 10).await;
    if state(paths).and_then(|state| state.recovery).is_some_and(|seen| seen.id == recovery.id) {
        return "the keeper has begun in this very moment: `recover status` says how far it is".into();
    }
    let left =
        removed.err().map(|error| format!(" (it cannot be removed: {error}; remove {})", paths.recovery_order().display()));
    format!(
        "the keeper of this node has not looked at the order in {} s, and it was withdrawn{}. Does the pod etcd of this cluster run (crictl ps)? Without it start the \
         kubelet; a keeper of an earlier version does not know how to recover",
        SEEN_WITHIN.as_secs(),
        left.unwrap_or_default()
    )
}

fn state(paths: &Paths) -> Option<State> {
    match read::<State>(&paths.state()) {
        Found::Whole(state) => Some(state),
        Found::Missing | Found::Unusable(_) => None,
    }
}

fn words(recovery: &RecoveryState) -> String {
    let step = match recovery.step {
        RecoveryStep::Waiting => "it is begun once no quorum has answered for 10 s, or three election timeouts",
        RecoveryStep::Building => "the new data is being made, the old is where it was",
        RecoveryStep::Switching => "the new data is whole and takes the place of the old",
        RecoveryStep::Done => "done",
        RecoveryStep::Failed => "failed",
    };
    let message = if recovery.message.is_empty() { String::new() } else { format!(": {}", recovery.message) };
    format!("{}, lineage {}: {step}{message}", recovery.id, recovery.lineage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(endpoints: &[&str]) -> Report {
        let endpoints = endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect();
        Report { own_endpoint: "https://10.0.0.1:2379".into(), endpoints, ..Report::default() }
    }

    #[test]
    fn each_other_member_has_to_be_named_however_it_is_written() {
        let all = report(&["https://10.0.0.1:2379", "https://10.0.0.1:12379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"]);
        let named =
            |gone: &[&str], voters| are_named(&all, &gone.iter().map(|gone| (*gone).to_owned()).collect::<Vec<_>>(), voters);
        assert_eq!(named(&["10.0.0.2", "https://10.0.0.3:2379"], 3), Ok(()));
        assert_eq!(named(&["10.0.0.2:2379", "10.0.0.3"], 0), Ok(()));
        let why = named(&["10.0.0.3"], 3).unwrap_err();
        assert!(why.contains("10.0.0.2:2379") && !why.contains("10.0.0.3") && !why.contains("12379"), "{why}");
        // The same one twice, or this node, is nobody else.
        let why = named(&["10.0.0.2", "10.0.0.3", "https://10.0.0.3:2379", "10.0.0.1"], 4).unwrap_err();
        assert!(why.contains("4 members vote, and 2 others"), "{why}");
        // Of one that this node has never heard of only its address is known.
        assert_eq!(named(&["10.0.0.2", "10.0.0.3", "10.0.0.4"], 4), Ok(()));
    }

    #[test]
    fn a_new_life_is_above_all_that_anybody_has_heard_of_but_for_what_was_retired_for_it() {
        let of = |lineage, known_lineage, is_retired| Report { lineage, known_lineage, is_retired, ..Report::default() };
        assert_eq!(next_lineage(&of(1, 1, false), &[]), 2);
        assert_eq!(next_lineage(&of(0, 0, false), &[]), 2);
        assert_eq!(next_lineage(&of(1, 1, false), &[of(1, 2, true)]), 2);
        assert_eq!(next_lineage(&of(1, 1, false), &[of(1, 2, false)]), 3);
        assert_eq!(next_lineage(&of(1, 2, true), &[]), 3);
    }
}
