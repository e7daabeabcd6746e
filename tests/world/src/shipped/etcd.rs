//! The simulated etcd, and the node around an agent, as the shipped code reaches them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use etcd_operator_agent::host::{Host, Signalled};
use etcd_operator_etcd::client::{HashKv, HeldWatch, Member, MemberStatus, Members, Snapshot, Tls};
use etcd_operator_etcd::dial::{Answer, Dial, Endpoint, Out};
use etcd_operator_etcd::error::{ErrorKind, EtcdError};
use etcd_operator_etcd::ids;
use etcd_operator_etcd::wal::Owner;
use etcd_operator_plan::{MemberId, NOBODY};
use futures::future::BoxFuture;
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;

use super::calls::Calls;
use super::disk;
use super::{SharedWorld, lock};
use crate::raft::{Life, Refusal};
use crate::world::{BOOT, World};
use crate::{boot, checks};

/// How long a call takes on the way.
const LATENCY: Duration = Duration::from_millis(2);

/// One process's way to etcd and to its node.
pub(crate) struct Way {
    pub(crate) world: SharedWorld,
    pub(crate) calls: Calls,
    /// The node that it runs on.
    pub(crate) node: usize,
    /// Where the nodes' disks are.
    pub(crate) root: PathBuf,
}

struct Client {
    url: String,
    world: SharedWorld,
    calls: Calls,
}

impl Dial for Way {
    fn etcd<'a>(&'a self, url: &'a str, _: &'a Tls) -> Answer<'a, Arc<dyn Endpoint>> {
        let client = Client { url: url.to_owned(), world: self.world.clone(), calls: self.calls.clone() };
        Box::pin(async move { Ok(Arc::new(client) as Arc<dyn Endpoint>) })
    }

    fn peer_hash<'a>(&'a self, peer_url: &'a str, _: &'a Tls, _: ids::ClusterId, revision: i64) -> Answer<'a, HashKv> {
        let url = client_url(peer_url);
        let client = Client { url, world: self.world.clone(), calls: self.calls.clone() };
        Box::pin(async move { client.hash("peer HashKV", revision).await })
    }

    fn is_closed(&self, address: SocketAddr) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let look = async {
                tokio::time::sleep(LATENCY).await;
                let world = lock(&self.world);
                let Some((id, powered)) = member_at(&world, &address.to_string()) else { return true };
                powered && !matches!(world.raft.processes.get(&id).map(|p| p.life), Some(Life::Up { .. }))
            };
            self.calls.make(|| "?connect".into(), look).await.unwrap_or(false)
        })
    }
}

impl Host for Way {
    fn dial(&self) -> &dyn Dial {
        self
    }

    fn signal(&self, _: &Path, _: i32, _: SocketAddr, signal: Signal) -> std::io::Result<Signalled> {
        let (name, is_term) = if signal == Signal::TERM { ("SIGTERM", true) } else { ("SIGKILL", false) };
        let done = self.calls.at_once(name.into(), || {
            let mut world = lock(&self.world);
            if !world.raft.runs(BOOT) {
                return Signalled::Gone;
            }
            match is_term {
                true => boot::sigterm(&mut world),
                false => boot::stop(&mut world),
            }
            disk::boot_process(&self.root, &world, self.node);
            Signalled::Yes
        });
        done.ok_or_else(|| std::io::Error::other("the agent is dead"))
    }

    fn reach<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let look = async {
                tokio::time::sleep(LATENCY).await;
                let known = member_at(&lock(&self.world), address).is_some();
                if known { Ok(()) } else { Err("cannot be reached: refused".to_owned()) }
            };
            self.calls.make(|| "?reach".into(), look).await.unwrap_or_else(|_| Err("no answer".into()))
        })
    }

    fn has_address(&self, ip: IpAddr) -> bool {
        lock(&self.world).address(self.node) == ip.to_string()
    }

    fn others_are_a_quorum<'a>(&'a self, _: &'a Path, _: &'a [String], own: Owner) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let look = async {
                tokio::time::sleep(LATENCY).await;
                let world = lock(&self.world);
                let others = world.raft.voters().filter(|id| id.0 != own.member.0 && world.raft.runs(*id)).count();
                let is_quorum =
                    world.raft.leader.is_some() && others >= etcd_operator_plan::quorum_of(world.raft.voters().count());
                if is_quorum { Ok(()) } else { Err("the others are no quorum".to_owned()) }
            };
            self.calls.make(|| "?others".into(), look).await.unwrap_or_else(|_| Err("no answer".into()))
        })
    }
}

/// Client and peer ports of the datastore's members, and of those of the first other cluster.
const PORTS: [u16; 4] = [2379, 2380, 22_379, 22_380];

/// Where the clients of a member reach it.
pub(crate) fn client_url(peer_url: &str) -> String {
    peer_url.strip_suffix("380").map_or_else(|| peer_url.to_owned(), |start| format!("{start}379"))
}

/// Who listens at `ip:port`, and whether his host has power.
fn member_at(world: &World, address: &str) -> Option<(MemberId, bool)> {
    let powered = |node: usize| world.nodes[node].on_since.is_some();
    if [12379, 12380].iter().any(|port| address == format!("{}:{port}", disk::boot_ip(world))) {
        return Some((BOOT, disk::boot_node(world).is_none_or(powered)));
    }
    let own = |node: usize| {
        let host = world.address(node);
        PORTS.iter().any(|port| address == format!("{host}:{port}"))
    };
    let node = (0..world.nodes.len()).find(|node| own(*node))?;
    let id = world.nodes[node].keeper.as_ref().and_then(|k| k.data).or_else(|| world.member_on(node))?;
    Some((id, powered(node)))
}

impl Client {
    fn error(&self, call: &'static str, kind: ErrorKind, message: &str) -> EtcdError {
        EtcdError::Call { endpoint: self.url.clone(), call, kind, message: message.to_owned() }
    }

    /// Makes a call to the member that listens here, if one does.
    async fn call<T>(
        &self,
        call: &'static str,
        looks: bool,
        limit: Duration,
        answer: impl FnOnce(&mut World, MemberId) -> Result<T, Refusal>,
    ) -> Result<T, EtcdError> {
        let exchange = async {
            tokio::time::sleep(LATENCY).await;
            let found = member_at(&lock(&self.world), self.url.trim_start_matches("https://"));
            match found {
                None => Err(self.error(call, ErrorKind::Unreachable, "connection refused")),
                Some((_, false)) => {
                    tokio::time::sleep(limit).await;
                    Err(self.error(call, ErrorKind::Timeout, "no answer"))
                }
                Some((id, true)) => {
                    let mut world = lock(&self.world);
                    let life = world.raft.processes.get(&id).map(|p| p.life);
                    if !matches!(life, Some(Life::Up { .. })) {
                        return Err(self.error(call, ErrorKind::Unreachable, "connection refused"));
                    }
                    answer(&mut world, id).map_err(|refusal| self.error(call, kind(refusal), &format!("{refusal:?}")))
                }
            }
        };
        let mark = if looks { "?" } else { "" };
        match self.calls.make(|| format!("{mark}{call}"), exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(self.error(call, ErrorKind::Timeout, "the answer was lost")),
        }
    }

    async fn hash(&self, call: &'static str, revision: i64) -> Result<HashKv, EtcdError> {
        self.call(call, true, Duration::from_secs(60), |world, id| {
            if world.raft.leader.is_none() {
                return Err(Refusal::NoQuorum);
            }
            let now = world.now;
            world.trace.hashed.insert(id, now);
            let hash = if world.raft.corrupt.contains(&id) { 8 } else { 7 };
            Ok(HashKv { hash, revision, compact_revision: 0 })
        })
        .await
    }
}

/// A change of the membership, judged.
fn change<T>(
    world: &mut World,
    calls: &Calls,
    step: &str,
    removed: Option<MemberId>,
    act: impl FnOnce(&mut World) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let before = checks::before(world, calls.faults_seen());
    let done = act(world)?;
    let now = world.now;
    world.trace.tell(now, step.to_owned());
    checks::after(world, &before, step, removed);
    Ok(done)
}

fn kind(refusal: Refusal) -> ErrorKind {
    match refusal {
        Refusal::NoQuorum => ErrorKind::NoLeader,
        Refusal::Unhealthy => ErrorKind::UnhealthyCluster,
        Refusal::PeerUrlExists => ErrorKind::PeerUrlExists,
        Refusal::TooManyLearners => ErrorKind::TooManyLearners,
        Refusal::LearnerNotReady => ErrorKind::LearnerNotReady,
        Refusal::NotFound => ErrorKind::MemberNotFound,
    }
}

/// A member that serves linearizable requests: a voter that knows a leader.
fn voter(world: &World, id: MemberId) -> Result<(), Refusal> {
    let serves = world.raft.serves(id) && world.raft.spare_voters() >= 0;
    let votes = world.raft.listed(id).is_some_and(|m| !m.learner);
    if serves && votes { Ok(()) } else { Err(Refusal::NoQuorum) }
}

const CALL: Duration = Duration::from_secs(5);

impl Endpoint for Client {
    fn url(&self) -> &str {
        &self.url
    }

    fn member_list(&self, limit: Duration) -> Answer<'_, Members> {
        Box::pin(self.call("MemberList", true, limit, |world, id| {
            voter(world, id)?;
            self.calls.looked(world.trace.faults);
            let member = |m: &crate::raft::Listed| Member {
                id: ids::MemberId(m.id.0),
                name: m.name.clone(),
                peer_urls: vec![m.peer_url.clone()],
                client_urls: if m.name.is_empty() { Vec::new() } else { vec![disk::client_url(world, m)] },
                is_learner: m.learner,
            };
            let members = world.raft.config.iter().map(member).collect();
            Ok(Members { cluster_id: ids::ClusterId(world.cluster_id), members })
        }))
    }

    fn get<'a>(&'a self, _: &'a str, limit: Duration) -> Answer<'a, (ids::ClusterId, Option<Vec<u8>>)> {
        // Nothing that the controller reads is ever written here.
        Box::pin(self.call("Range", true, limit, |world, id| {
            voter(world, id)?;
            Ok((ids::ClusterId(world.cluster_id), None))
        }))
    }

    fn status(&self, limit: Duration) -> Answer<'_, MemberStatus> {
        Box::pin(self.call("Status", true, limit, |world, id| {
            let commit = world.raft.commit;
            let applied = commit.saturating_sub(world.raft.lag(id));
            Ok(MemberStatus {
                cluster_id: ids::ClusterId(world.cluster_id),
                member_id: ids::MemberId(id.0),
                version: world.raft.versions.get(&id).cloned().unwrap_or_else(|| super::VERSION.into()),
                leader: world.raft.leader.map(|l| ids::MemberId(l.0)),
                raft_term: 1,
                raft_index: commit,
                applied_index: applied,
                revision: i64::try_from(applied).unwrap_or(i64::MAX),
                db_size: 1 << 20,
                is_learner: world.raft.listed(id).is_some_and(|m| m.learner),
                storage_version: world.raft.data_version.clone(),
                downgrade: world.raft.downgrade.as_ref().map(|(target, _)| target.clone()),
                errors: world.raft.alarms.iter().map(|id| format!("memberID:{} alarm:CORRUPT ", id.0)).collect(),
            })
        }))
    }

    fn member_add_learner<'a>(&'a self, peer_url: &'a str) -> Answer<'a, ids::MemberId> {
        Box::pin(self.call("MemberAdd", false, CALL, move |world, id| {
            voter(world, id)?;
            let now = world.now;
            change(world, &self.calls, "MemberAdd", None, |w| w.raft.add_learner(now, peer_url)).map(|id| ids::MemberId(id.0))
        }))
    }

    fn member_promote(&self, id: ids::MemberId) -> Answer<'_, ()> {
        Box::pin(self.call("MemberPromote", false, CALL, move |world, by| {
            voter(world, by)?;
            let now = world.now;
            change(world, &self.calls, "MemberPromote", None, |w| w.raft.promote(now, MemberId(id.0)))
        }))
    }

    fn member_remove(&self, id: ids::MemberId) -> Answer<'_, ()> {
        Box::pin(self.call("MemberRemove", false, CALL, move |world, by| {
            voter(world, by)?;
            let (now, id) = (world.now, MemberId(id.0));
            if id != BOOT {
                return change(world, &self.calls, "MemberRemove", Some(id), |w| w.raft.remove(now, id));
            }
            if !world.boot_listed() {
                return Err(Refusal::NotFound);
            }
            let fair = self.calls.faults_seen() == world.trace.faults;
            let judged = checks::judge_removal_by_the_shipped(world, fair);
            change(world, &self.calls, "boot is removed", Some(id), |w| w.raft.remove(now, id))?;
            world.trace.boot_removals += 1;
            world.trace.violations.extend(judged);
            Ok(())
        }))
    }

    fn member_update<'a>(&'a self, id: ids::MemberId, peer_url: &'a str) -> Answer<'a, ()> {
        Box::pin(self.call("MemberUpdate", false, CALL, move |world, by| {
            voter(world, by)?;
            change(world, &self.calls, "MemberUpdate", None, |w| w.raft.update(MemberId(id.0), peer_url))
        }))
    }

    fn move_leader(&self, to: ids::MemberId) -> Answer<'_, ()> {
        Box::pin(self.call("MoveLeader", false, CALL, move |world, by| {
            world.raft.move_leader(by, MemberId(to.0))?;
            let now = world.now;
            world.trace.tell(now, "MoveLeader");
            Ok(())
        }))
    }

    fn disarm_corrupt(&self, accused: ids::MemberId) -> Answer<'_, ()> {
        Box::pin(self.call("Alarm", false, CALL, move |world, by| {
            voter(world, by)?;
            // Whoever is accused must not serve what is wrong.
            let accused = MemberId(accused.0);
            let is_wrong = |id: &&MemberId| world.raft.listed(**id).is_some() && world.raft.runs(**id);
            let serves = world.raft.corrupt.iter().filter(is_wrong).find(|id| **id == accused || accused == NOBODY).copied();
            world.trace.violations.extend(serves.map(|member| checks::Violation::CorruptServes { member }));
            world.raft.alarms.remove(&accused);
            Ok(())
        }))
    }

    fn enable_downgrade<'a>(&'a self, version: &'a str) -> Answer<'a, ()> {
        Box::pin(self.call("Downgrade", false, CALL, move |world, by| {
            voter(world, by)?;
            if world.raft.downgrade.is_some() {
                return Err(Refusal::NotFound);
            }
            world.raft.downgrade = Some((version.to_owned(), world.now));
            Ok(())
        }))
    }

    fn cancel_downgrade(&self) -> Answer<'_, ()> {
        Box::pin(self.call("Downgrade", false, CALL, |world, by| {
            voter(world, by)?;
            world.raft.downgrade.take().map(drop).ok_or(Refusal::NotFound)
        }))
    }

    fn hash_kv(&self, revision: i64) -> Answer<'_, HashKv> {
        Box::pin(self.hash("HashKV", revision))
    }

    fn write_and_read<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        Box::pin(self.call("Put", false, CALL, |world, id| {
            voter(world, id)?;
            world.write().ok_or(Refusal::NoQuorum)
        }))
    }

    fn hold_watch(&self) -> Answer<'_, HeldWatch> {
        Box::pin(self.call("Watch", true, CALL, |world, id| {
            voter(world, id)?;
            if id == BOOT {
                world.boot.stream = true;
            }
            Ok(HeldWatch::new(Held { world: self.world.clone(), of_boot: id == BOOT }))
        }))
    }

    fn snapshot<'a>(&'a self, out: &'a mut Out<'a>) -> Answer<'a, Snapshot> {
        Box::pin(async move {
            self.call("Snapshot", true, CALL, voter_once).await?;
            let failed = |e: std::io::Error| EtcdError::Snapshot { endpoint: self.url.clone(), why: e.to_string() };
            out.write_all(b"the simulated World has no store").await.map_err(failed)?;
            out.flush().await.map_err(failed)?;
            Ok(Snapshot { bytes: 32, sha256: "0".repeat(64) })
        })
    }
}

fn voter_once(world: &mut World, id: MemberId) -> Result<(), Refusal> {
    voter(world, id)
}

struct Held {
    world: SharedWorld,
    of_boot: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.of_boot {
            lock(&self.world).boot.stream = false;
        }
    }
}
