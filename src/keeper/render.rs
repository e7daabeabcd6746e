//! etcd's flags, rendered at each start: what is not baked in cannot go stale.

use std::fmt;
use std::path::PathBuf;

use etcd_operator_etcd::client::Members;
use etcd_operator_etcd::ids::MemberId;

use crate::contract::{MAX_LEARNERS, Order, Paths};
use crate::order::address;

/// etcd's version, from `etcd --version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EtcdVersion {
    /// 3 in 3.6.16.
    pub major: u32,
    /// 6 in 3.6.16.
    pub minor: u32,
    /// 16 in 3.6.16.
    pub patch: u32,
}

impl fmt::Display for EtcdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Oldest version whose flags are known: `--listen-client-http-urls` came with 3.5.10, `/readyz` with 3.5.11. The controller asks for
/// more (3.5.26); a cold start does not.
pub const OLDEST: EtcdVersion = EtcdVersion { major: 3, minor: 5, patch: 11 };

impl EtcdVersion {
    /// Reads `3.6.16`, as the state has it.
    #[must_use]
    pub fn of_state(version: &str) -> Option<Self> {
        Self::parse(&format!("etcd Version: {version}"))
    }

    /// Reads what `etcd --version` prints.
    #[must_use]
    pub fn parse(output: &str) -> Option<Self> {
        let text = output.lines().find_map(|line| line.strip_prefix("etcd Version: "))?;
        let mut numbers = text.trim().split(['-', '+']).next()?.split('.').map(str::parse);
        let (major, minor, patch) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(Self { major, minor, patch })
    }
}

/// What etcd may do when it starts.
#[derive(Clone, Debug)]
pub enum Start<'a> {
    /// Go on with its data. Its initial cluster could never join: if the data vanishes in between, etcd ends instead of joining.
    Data(InitialCheck),
    /// Join the cluster of this list, under this ID.
    Join(&'a Members, MemberId),
    /// Start a new cluster with this token.
    New(&'a str),
}

/// Whether etcd compares its data with its peers' before it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialCheck {
    /// It does. For a start while a quorum is up.
    On,
    /// It does not. etcd asks its peers one after the other, with 7 s for each, and meanwhile accepts connections of its own peers
    /// without answering them: members that start together would wait for each other until all these times are over (seen: 21 s with
    /// three peers). And a member that is new has nothing to compare.
    Off,
}

/// Why an initial cluster cannot be rendered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster lists this member with {listed}, the order has {ordered}")]
pub struct PeerUrlDiffers {
    listed: String,
    ordered: String,
}

/// Renders etcd's flags.
///
/// # Errors
/// When the member to join is listed with another peer URL: etcd would refuse to start.
pub fn flags(order: &Order, paths: &Paths, version: EtcdVersion, start: &Start<'_>) -> Result<Vec<String>, PeerUrlDiffers> {
    let etcd = &order.etcd;
    let name = &order.member_name;
    let pki = |file: &str| paths.pki().join(file);
    let mut flags = vec![
        format!("--name={name}"),
        flag("data-dir", paths.member(name)),
        format!("--listen-peer-urls={}", etcd.peer_url),
        format!("--initial-advertise-peer-urls={}", etcd.peer_url),
        format!("--listen-client-urls={}", listen_clients(&etcd.client_url)),
        format!("--advertise-client-urls={}", etcd.client_url),
        format!("--listen-client-http-urls=https://127.0.0.1:{}", etcd.client_http_port),
        format!("--listen-metrics-urls=http://127.0.0.1:{}", etcd.metrics_port),
        "--client-cert-auth=true".to_owned(),
        flag("trusted-ca-file", pki("ca.crt")),
        flag("cert-file", pki("server.crt")),
        flag("key-file", pki("server.key")),
        "--peer-client-cert-auth=true".to_owned(),
        flag("peer-trusted-ca-file", pki("ca.crt")),
        flag("peer-cert-file", pki("peer.crt")),
        flag("peer-key-file", pki("peer.key")),
        "--strict-reconfig-check=true".to_owned(),
        "--logger=zap".to_owned(),
        "--log-outputs=stderr".to_owned(),
    ];
    let check = match start {
        Start::Data(InitialCheck::On) => "true",
        Start::Data(InitialCheck::Off) | Start::Join(..) | Start::New(_) => "false",
    };
    if (version.major, version.minor) >= (3, 6) {
        let learners = if etcd.max_learners == 0 { MAX_LEARNERS } else { etcd.max_learners };
        flags.push(format!("--max-learners={learners}"));
        flags.push(format!("--feature-gates=InitialCorruptCheck={check},CompactHashCheck=true"));
    } else {
        // 3.5 has a constant of one learner, and these names; 3.7 has them no more.
        flags.push(format!("--experimental-initial-corrupt-check={check}"));
        flags.push("--experimental-compact-hash-check-enabled=true".to_owned());
    }
    for (flag, value) in [
        ("quota-backend-bytes", etcd.quota_backend_bytes),
        ("heartbeat-interval", u64::from(etcd.heartbeat_ms)),
        ("election-timeout", u64::from(etcd.election_ms)),
    ] {
        if value != 0 {
            flags.push(format!("--{flag}={value}"));
        }
    }
    match start {
        Start::Data(_) => {
            flags.push(format!("--initial-cluster={name}={}", etcd.peer_url));
            flags.push("--initial-cluster-state=existing".to_owned());
        }
        Start::New(token) => {
            flags.push(format!("--initial-cluster={name}={}", etcd.peer_url));
            flags.push(format!("--initial-cluster-token={token}"));
            flags.push("--initial-cluster-state=new".to_owned());
        }
        Start::Join(members, own) => {
            flags.push(format!("--initial-cluster={}", initial_cluster(order, members, *own)?));
            flags.push("--initial-cluster-state=existing".to_owned());
        }
    }
    Ok(flags)
}

fn flag(name: &str, path: PathBuf) -> String {
    format!("--{name}={}", path.display())
}

/// The node's address, and loopback for those on the node itself.
fn listen_clients(client_url: &str) -> String {
    match address(client_url) {
        Some(address) if address.ip().is_loopback() && address.ip().to_string() == "127.0.0.1" => client_url.to_owned(),
        Some(address) if address.ip().is_unspecified() => client_url.to_owned(),
        Some(address) => format!("{client_url},https://127.0.0.1:{}", address.port()),
        None => client_url.to_owned(),
    }
}

/// etcd compares the peer URLs of all members, also of those that have no name yet, with what its peers tell it; of names it needs
/// only its own.
fn initial_cluster(order: &Order, members: &Members, own: MemberId) -> Result<String, PeerUrlDiffers> {
    let mut entries = Vec::new();
    for member in &members.members {
        let name = if member.id == own {
            if member.peer_urls != [order.etcd.peer_url.clone()] {
                let (listed, ordered) = (member.peer_urls.join(","), order.etcd.peer_url.clone());
                return Err(PeerUrlDiffers { listed, ordered });
            }
            order.member_name.clone()
        } else {
            format!("member-{}", member.id)
        };
        entries.extend(member.peer_urls.iter().map(|url| format!("{name}={url}")));
    }
    Ok(entries.join(","))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use etcd_operator_etcd::client::Member;
    use etcd_operator_etcd::ids::ClusterId;

    use super::*;
    use crate::order::tests::order;

    fn rendered(version: &str, start: &Start<'_>) -> Vec<String> {
        let paths = Paths { dir: "/op".into(), data: "/data".into() };
        let version = EtcdVersion::parse(&format!("etcd Version: {version}\nGit SHA: x\n")).unwrap();
        flags(&order(1, 1), &paths, version, start).unwrap()
    }

    fn member(id: u64, name: &str, urls: &[&str]) -> Member {
        Member {
            id: MemberId(id),
            name: name.into(),
            peer_urls: urls.iter().map(|u| (*u).to_owned()).collect(),
            client_urls: Vec::new(),
            is_learner: false,
        }
    }

    #[test]
    fn a_start_on_data_could_never_join_or_make_a_cluster() {
        let flags = rendered("3.6.16", &Start::Data(InitialCheck::On));
        assert!(flags.contains(&"--initial-cluster=cp1-1=https://10.0.0.1:2380".to_owned()));
        assert!(flags.contains(&"--initial-cluster-state=existing".to_owned()));
        assert!(!flags.iter().any(|f| f.contains("=new")));
    }

    #[test]
    fn a_join_names_every_member_also_without_a_name_and_with_two_urls() {
        let members = Members {
            cluster_id: ClusterId(0xc1),
            members: vec![
                member(0xb0, "boot", &["https://10.0.0.1:12380", "https://10.0.0.9:12380"]),
                member(0xa1, "", &["https://10.0.0.1:2380"]),
                member(0xa2, "", &["https://10.0.0.2:2380"]),
            ],
        };
        let flags = rendered("3.6.16", &Start::Join(&members, MemberId(0xa1)));
        let expected = "--initial-cluster=member-00000000000000b0=https://10.0.0.1:12380,\
                        member-00000000000000b0=https://10.0.0.9:12380,cp1-1=https://10.0.0.1:2380,\
                        member-00000000000000a2=https://10.0.0.2:2380";
        assert!(flags.contains(&expected.to_owned()), "{flags:#?}");
        assert!(flags.contains(&"--initial-cluster-state=existing".to_owned()));
        let paths = Paths { dir: "/op".into(), data: "/data".into() };
        let moved = Members { members: vec![member(0xa1, "", &["https://10.0.0.7:2380"])], ..members };
        let version = EtcdVersion { major: 3, minor: 6, patch: 16 };
        assert!(super::flags(&order(1, 1), &paths, version, &Start::Join(&moved, MemberId(0xa1))).is_err());
    }

    #[test]
    fn each_minor_version_has_its_own_names_of_flags() {
        let old = rendered("3.5.26", &Start::Data(InitialCheck::On));
        assert!(old.iter().any(|f| f.starts_with("--experimental-initial-corrupt-check")));
        assert!(!old.iter().any(|f| f.starts_with("--max-learners") || f.starts_with("--feature-gates")));
        for version in ["3.6.16", "3.7.0-rc.1", "3.8.0"] {
            let new = rendered(version, &Start::Data(InitialCheck::On));
            assert!(!new.iter().any(|f| f.contains("experimental")));
            assert!(new.contains(&"--max-learners=9".to_owned()));
            assert!(new.contains(&"--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true".to_owned()));
            let cold = rendered(version, &Start::Data(InitialCheck::Off));
            assert!(cold.contains(&"--feature-gates=InitialCorruptCheck=false,CompactHashCheck=true".to_owned()));
        }
        assert_eq!(EtcdVersion::parse("etcd: not found"), None);
    }
}
