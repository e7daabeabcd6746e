//! Who is connected to whom, from `/proc/net/tcp` and `tcp6` (design D7.3). The parser is pure; the agent runs in the node's network
//! namespace, so that its own `/proc/net` is the node's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use etcd_operator_api::member::{ClientCount, OwnCount};

use crate::node::AgentArgs;
use crate::problem::Problem;

/// One TCP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Here.
    pub local: SocketAddr,
    /// There; `0.0.0.0:0` for a listener.
    pub remote: SocketAddr,
    /// What it is.
    pub state: SocketState,
    /// Who made it.
    pub uid: u32,
    /// Its inode, as in `/proc/<pid>/fd`.
    pub inode: u64,
}

/// The states that matter here (Linux `include/net/tcp_states.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// `TCP_ESTABLISHED`, 1.
    Established,
    /// `TCP_LISTEN`, 10.
    Listen,
    /// Any other: a connection that begins or ends.
    Other,
}

/// The sockets of one of the two files. Lines that cannot be read are left out: the kernel may cut the last one.
#[must_use]
pub fn parse(text: &str) -> Vec<Socket> {
    text.lines().skip(1).filter_map(line).collect()
}

fn line(line: &str) -> Option<Socket> {
    // sl local remote state tx:rx tr:when retransmits uid timeout inode ...
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let remote = address(fields.next()?)?;
    let state = match u8::from_str_radix(fields.next()?, 16).ok()? {
        0x01 => SocketState::Established,
        0x0A => SocketState::Listen,
        _ => SocketState::Other,
    };
    let mut rest = fields.skip(3);
    let uid = rest.next()?.parse().ok()?;
    let inode = rest.nth(1)?.parse().ok()?;
    Some(Socket { local, remote, state, uid, inode })
}

/// Address and port in the kernel's hex: 32-bit words in the machine's byte order, each holding network order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |from: usize| Some(u32::from_str_radix(address.get(from..from + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0_u8; 16];
            for (slot, from) in bytes.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                slot.copy_from_slice(&word(from)?);
            }
            // A client of a dual-stack listener shows as ::ffff:a.b.c.d.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Established connections of each listener, per remote IP. Those that came over loopback to the same port stand under the loopback address.
#[must_use]
pub fn clients(sockets: &[Socket], listeners: &[SocketAddr]) -> Vec<ClientCount> {
    listeners
        .iter()
        .map(|listener| {
            let mut remotes = BTreeMap::new();
            let is_here = |socket: &&Socket| {
                let local = socket.local;
                socket.state == SocketState::Established
                    && local.port() == listener.port()
                    && (local.ip() == listener.ip() || local.ip().is_loopback())
            };
            for socket in sockets.iter().filter(is_here) {
                *remotes.entry(socket.remote.ip().to_string()).or_insert(0) += 1;
            }
            ClientCount { listener: listener.to_string(), remotes }
        })
        .collect()
}

/// Established connections of our own processes to each address, per local IP. Ours: made by the controller's UID, or this process's.
#[must_use]
pub fn own(sockets: &[Socket], to: &[SocketAddr], controller_uid: u32, inodes: &BTreeSet<u64>) -> Vec<OwnCount> {
    to.iter()
        .map(|to| {
            let mut locals = BTreeMap::new();
            let ours = |socket: &&Socket| {
                socket.state == SocketState::Established
                    && socket.remote == *to
                    && (socket.uid == controller_uid || inodes.contains(&socket.inode))
            };
            for socket in sockets.iter().filter(ours) {
                *locals.entry(socket.local.ip().to_string()).or_insert(0) += 1;
            }
            OwnCount { to: to.to_string(), locals }
        })
        .collect()
}

/// The socket that listens on the address, or on its port on all addresses.
#[must_use]
pub fn listener<'a>(sockets: &'a [Socket], address: &SocketAddr) -> Option<&'a Socket> {
    sockets.iter().find(|socket| {
        socket.state == SocketState::Listen
            && socket.local.port() == address.port()
            && (socket.local.ip() == address.ip() || socket.local.ip().is_unspecified())
    })
}

/// All TCP sockets of the node.
pub(crate) fn read(args: &AgentArgs) -> Result<Vec<Socket>, Problem> {
    let mut all = Vec::new();
    for name in ["net/tcp", "net/tcp6"] {
        let path = args.proc.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => all.extend(parse(&text)),
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && name == "net/tcp6" => {}
            Err(error) => return Err(Problem::file("read", &path, &error)),
        }
    }
    Ok(all)
}

/// Inodes of this process's sockets.
pub(crate) fn own_inodes(proc: &Path) -> BTreeSet<u64> {
    let Ok(entries) = std::fs::read_dir(proc.join("self/fd")) else { return BTreeSet::new() };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B0200C0:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0000000000000000 100 0 0 10 0
   1: 0B0200C0:094B 0A0200C0:D431 01 00000000:00000000 02:000005D6 00000000     0        0 101 2 0000000000000000 20 4 30 10 -1
   2: 0B0200C0:094B 0A0200C0:D432 01 00000000:00000000 02:000005D6 00000000     0        0 102 2 0000000000000000 20 4 30 10 -1
   3: 0B0200C0:094B 0C0200C0:D433 06 00000000:00000000 03:000005D6 00000000     0        0 0 3 0000000000000000
   4: 0B0200C0:D500 0A0200C0:305B 01 00000000:00000000 02:000005D6 00000000 23790        0 103 2 0000000000000000 20 4 30 10 -1
   5: 0B0200C0:D501 0A0200C0:305B 01 00000000:00000000 02:000005D6 00000000     0        0 104 2 0000000000000000 20 4 30 10 -1
   6: 0B0200C0:D502 0A0200C0:305B 01 00000000:00000000 02:000005D6 00000000     0        0 105 2 0000000000000000 20 4 30 10 -1
   7: 0100007F:09";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 200 1 0000000000000000 100 0 0 10 0
   1: 0000000000000000FFFF00000B0200C0:094B 0000000000000000FFFF00000D0200C0:9C40 01 00000000:00000000 00:00000000 00000000     0        0 201 1 0000000000000000 20 4 30 10 -1
   2: B80D0120000000000000000001000000:094B B80D0120000000000000000002000000:9C41 01 00000000:00000000 00:00000000 00000000     0        0 202 1 0000000000000000 20 4 30 10 -1";

    fn all() -> Vec<Socket> {
        let mut all = parse(TCP);
        all.extend(parse(TCP6));
        all
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn clients_are_counted_by_remote_address() {
        let counts = clients(&all(), &[at("192.0.2.11:2379"), at("[2001:db8::1]:2379"), at("192.0.2.99:2379")]);
        let expected = BTreeMap::from([("192.0.2.10".to_owned(), 2), ("192.0.2.13".to_owned(), 1)]);
        assert_eq!(counts[0], ClientCount { listener: "192.0.2.11:2379".into(), remotes: expected });
        assert_eq!(counts[1].remotes, BTreeMap::from([("2001:db8::2".to_owned(), 1)]));
        // A listener without clients is reported too: "none" is not "not looked".
        assert!(counts[2].remotes.is_empty());
    }

    #[test]
    fn clients_over_loopback_stand_apart() {
        let loopback = "  sl
   0: 0100007F:094B 0100007F:D431 01 00000000:00000000 02:000005D6 00000000     0        0 101 2 0000000000000000 20 4 30 10 -1
   1: 0100007F:094C 0100007F:D432 01 00000000:00000000 02:000005D6 00000000     0        0 102 2 0000000000000000 20 4 30 10 -1";
        let counts = clients(&parse(loopback), &[at("192.0.2.11:2379")]);
        assert_eq!(counts[0].remotes, BTreeMap::from([("127.0.0.1".to_owned(), 1)]));
    }

    #[test]
    fn own_connections_are_those_of_the_controller_and_of_this_process() {
        let counts = own(&all(), &[at("192.0.2.10:12379")], 23790, &BTreeSet::from([104]));
        assert_eq!(counts[0].locals, BTreeMap::from([("192.0.2.11".to_owned(), 2)]));
    }

    #[test]
    fn a_taken_port_is_found_also_behind_the_wildcard_address() {
        assert_eq!(listener(&all(), &at("192.0.2.11:2379")).unwrap().inode, 100);
        assert_eq!(listener(&all(), &at("192.0.2.11:8080")).unwrap().inode, 200);
        assert!(listener(&all(), &at("192.0.2.12:2379")).is_none());
    }

    #[test]
    fn this_machines_own_table_is_readable() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let args = AgentArgs::default();
        let found = read(&args).unwrap();
        let entry = listener(&found, &socket.local_addr().unwrap()).expect("our own listener");
        assert!(own_inodes(&args.proc).contains(&entry.inode));
    }
}
