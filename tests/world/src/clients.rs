//! API servers as etcd clients: one channel per resource type, each with its own connections and its own reconnect backoff
//! (1.6ⁿ s up to 120 s ± 20 %), so that one channel that has arrived at a new member proves nothing about the others. Each channel
//! writes; a write that is acknowledged must be there for ever.

use etcd_operator_plan::MemberId;

use crate::Ms;
use crate::boot::BootHost;
use crate::raft::Life;
use crate::world::{BOOT, World};

/// Channels per API server.
const CHANNELS: usize = 3;
/// How often each channel writes, ms; one after the other, so that there are moments without a write in flight.
const WRITE_EVERY_MS: Ms = 150;
/// How long a write waits for a leader before it fails, ms (etcd: 5 s + 2 × election timeout).
const WRITE_TIMEOUT_MS: Ms = 7_000;
/// How long a connection to a host that lost power looks alive, ms (keepalive 30 s + 10 s).
const KEEPALIVE_MS: Ms = 40_000;
/// gRPC's longest backoff without its jitter, ms.
const LONGEST_BACKOFF_MS: f64 = 120_000.0;

/// An API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ApiServer {
    /// The node it runs on.
    pub node: usize,
    /// From when it runs; `None` = it has no power.
    up_from: Option<Ms>,
    channels: Vec<Channel>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Channel {
    /// Boot's endpoint first, then the seats in the order of the nodes; as listed in `--etcd-servers`.
    connections: Vec<Connection>,
    seed: u64,
    next_write: Ms,
    waiting_since: Option<Ms>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Connection {
    Open {
        member: MemberId,
    },
    /// The other side lost power: nobody has told us yet.
    Dead {
        until: Ms,
    },
    Refused {
        attempt: u32,
        retry_at: Ms,
    },
}

impl ApiServer {
    pub(crate) fn new(node: usize, seats: usize, refused_before: u32) -> Self {
        Self { node, up_from: Some(0), channels: channels(node, seats, refused_before) }
    }

    pub(crate) fn boot_only(index: usize) -> Self {
        Self { node: 0, up_from: Some(0), channels: channels(100 + index, 0, 0) }
    }

    /// Connections to a member, as its node's agent counts them.
    #[must_use]
    pub fn sockets_to(&self, id: MemberId) -> u32 {
        let open = self.channels.iter().flat_map(|c| &c.connections).filter(|c| **c == Connection::Open { member: id });
        u32::try_from(open.count()).unwrap_or(u32::MAX)
    }

    /// All that decides its future; a time that lies ahead is told as such. When a refused connection tries again counts only while somebody
    /// listens there: else no two moments would be alike.
    pub(crate) fn shape(&self, world: &World, put: &mut impl FnMut(Ms, bool)) {
        put(u64::from(self.up_from.is_some()), false);
        put(self.up_from.unwrap_or(0), true);
        for channel in &self.channels {
            put(channel.next_write, true);
            put(u64::from(channel.waiting_since.is_some()), false);
            // A write that waits fails at a time that lies ahead.
            put(channel.waiting_since.map_or(0, |at| at + WRITE_TIMEOUT_MS), true);
            for (endpoint, connection) in channel.connections.iter().enumerate() {
                match *connection {
                    Connection::Open { member } => put(member.0, false),
                    Connection::Dead { until } => {
                        put(1_000, false);
                        put(until, true);
                    }
                    Connection::Refused { attempt, retry_at } => {
                        let is_taken = listening(world, endpoint).is_some();
                        put(2_000 + u64::from(attempt.min(12)), false);
                        put(if is_taken { retry_at } else { 0 }, is_taken);
                    }
                }
            }
        }
    }

    pub(crate) fn lists_only_boot(&self) -> bool {
        self.channels.iter().all(|c| c.connections.len() == 1)
    }

    pub(crate) fn reaches_etcd(&self, world: &World) -> bool {
        self.up_from.is_some_and(|at| at <= world.now) && self.channels.iter().any(|c| c.usable(world).is_some())
    }

    pub(crate) fn power_cut(&mut self) {
        self.up_from = None;
        for channel in &mut self.channels {
            channel.waiting_since = None;
            channel.connections.fill(Connection::Refused { attempt: 0, retry_at: 0 });
        }
    }

    pub(crate) fn power_on(&mut self, at: Ms) {
        self.up_from = Some(at);
    }
}

fn channels(server: usize, seats: usize, refused_before: u32) -> Vec<Channel> {
    (0..CHANNELS)
        .map(|c| {
            let seed = (server * CHANNELS + c) as u64;
            let mut connections = vec![Connection::Open { member: BOOT }];
            for seat in 0..seats {
                let retry_at = backoff(refused_before, seed + seat as u64);
                connections.push(Connection::Refused { attempt: refused_before, retry_at });
            }
            Channel { connections, seed, next_write: (c as u64 + 1) * 50, waiting_since: None }
        })
        .collect()
}

/// gRPC's backoff after `attempt` refusals, with a jitter that depends on nothing but the channel and the attempt.
fn backoff(attempt: u32, seed: u64) -> Ms {
    let base = (1_000.0 * 1.6_f64.powi(i32::try_from(attempt).unwrap_or(i32::MAX))).min(LONGEST_BACKOFF_MS);
    let mixed = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(u64::from(attempt)).rotate_left(23) % 401;
    (base * (0.8 + mixed as f64 / 1_000.0)) as Ms
}

impl Channel {
    /// A member that would carry out a write, learners left out: the client goes on to the next one when a learner refuses.
    fn usable(&self, world: &World) -> Option<MemberId> {
        self.connections.iter().find_map(|c| match c {
            Connection::Open { member } => {
                (world.raft.serves(*member) && world.raft.listed(*member).is_some_and(|m| !m.learner)).then_some(*member)
            }
            Connection::Dead { .. } | Connection::Refused { .. } => None,
        })
    }

    fn reconnect(&mut self, world: &World) {
        for (endpoint, connection) in self.connections.iter_mut().enumerate() {
            let gone = match *connection {
                Connection::Open { member } => !up(world, member),
                Connection::Dead { until } => world.now >= until,
                Connection::Refused { .. } => false,
            };
            if gone {
                *connection = Connection::Refused { attempt: 0, retry_at: world.now };
            }
            if let Connection::Refused { attempt, retry_at } = *connection
                && retry_at <= world.now
            {
                *connection = match listening(world, endpoint) {
                    Some(member) => Connection::Open { member },
                    None => Connection::Refused {
                        attempt: attempt + 1,
                        retry_at: world.now + backoff(attempt, self.seed + endpoint as u64),
                    },
                };
            }
        }
    }
}

/// Whether its process takes and keeps clients: a draining one sends GOAWAY.
fn up(world: &World, member: MemberId) -> bool {
    world.raft.processes.get(&member).is_some_and(|p| matches!(p.life, Life::Up { .. }))
}

/// Who listens at an endpoint. Before there is a quorum etcd's client port serves nothing.
fn listening(world: &World, endpoint: usize) -> Option<MemberId> {
    let member = match endpoint.checked_sub(1) {
        None => Some(BOOT),
        Some(node) => world.nodes.get(node).and_then(|n| n.keeper.as_ref()).and_then(|k| k.data),
    };
    member.filter(|id| up(world, *id) && world.raft.leader.is_some() && world.raft.listed(*id).is_some())
}

pub(crate) fn tick(world: &mut World) {
    for index in 0..world.servers.len() {
        if world.servers[index].up_from.is_none_or(|at| at > world.now) {
            continue;
        }
        let mut channels = std::mem::take(&mut world.servers[index].channels);
        for channel in &mut channels {
            channel.reconnect(world);
            if world.now >= channel.next_write || channel.waiting_since.is_some() {
                channel.next_write = world.now + WRITE_EVERY_MS;
                write(world, channel);
            }
        }
        world.servers[index].channels = channels;
    }
}

fn write(world: &mut World, channel: &mut Channel) {
    let dead = channel.connections.iter().any(|c| matches!(c, Connection::Dead { .. }));
    let no_leader = world.raft.leader.is_none();
    if !no_leader
        && channel.usable(world).is_some()
        && let Some(entry) = world.raft.propose()
    {
        channel.waiting_since = None;
        world.trace.acknowledged(world.now, entry);
        return;
    }
    let since = *channel.waiting_since.get_or_insert(world.now);
    let hopeless = !no_leader && !dead && channel.usable(world).is_none();
    if hopeless || world.now >= since + WRITE_TIMEOUT_MS {
        channel.waiting_since = None;
        world.trace.failed.push(world.now);
    }
}

/// A member's host lost power: connections to it from elsewhere look alive for a while.
pub(crate) fn lost_power(world: &mut World, member: MemberId) {
    let until = world.now + KEEPALIVE_MS;
    let host = match world.boot.host {
        BootHost::Node(index) if member == BOOT => Some(index),
        BootHost::Node(_) | BootHost::Elsewhere => None,
    };
    for server in world.servers.iter_mut().filter(|s| Some(s.node) != host) {
        for connection in server.channels.iter_mut().flat_map(|c| c.connections.iter_mut()) {
            if *connection == (Connection::Open { member }) {
                *connection = Connection::Dead { until };
            }
        }
    }
}
