//! Objects for the unit tests.

use std::collections::BTreeMap;
use std::path::Path;

use etcd_operator_api::member::{BootSpec, EtcdMember, EtcdMemberSpec, OrderSpec, Role, RunSpec, Seat};

use crate::node::AgentArgs;

pub(crate) fn args(root: &Path) -> AgentArgs {
    AgentArgs {
        node_name: "cp1".into(),
        namespace: "etcd-system".into(),
        static_pod_path: root.join("manifests"),
        operator_root: root.join("operator"),
        data_root: root.join("data"),
        // Not this machine's: its processes are none of a unit test's business.
        proc: root.join("proc"),
        allowed_image_prefixes: vec!["registry.example/etcd".into(), "mirror.example/".into()],
        ..AgentArgs::default()
    }
}

pub(crate) fn member() -> EtcdMember {
    let mut member = EtcdMember::new(
        "kube-etcd-cp1",
        EtcdMemberSpec {
            cluster_name: "kube-etcd".into(),
            node_name: "cp1".into(),
            role: Role::Member,
            generation: 1,
            lineage: 0,
            nonce: "n1".into(),
            certificates: None,
            seat: Some(Seat {
                pod: etcd_operator_api::member::Pod {
                    image: "registry.example/etcd:v3.6.16".into(),
                    labels: BTreeMap::from([("team".into(), "infra".into())]),
                    annotations: BTreeMap::from([("example.com/note".into(), "a: \"b\" # {not} [yaml]".into())]),
                    requests: BTreeMap::from([("cpu".into(), "250m".into()), ("memory".into(), "512Mi".into())]),
                    limits: BTreeMap::new(),
                },
                roll_out: None,
                rolled_back: None,
                prove: None,
                snapshot: None,
                probe_port: 2383,
                measure_data: false,
                keeper: None,
                order: OrderSpec {
                    sequence: 4,
                    run: RunSpec::Run,
                    cluster_id: Some("cdf818194e3a8c32".into()),
                    member_id: Some("8e9e05c52164694d".into()),
                    member_name: "cp1-1".into(),
                    peer_url: "https://192.0.2.11:2380".into(),
                    client_url: "https://192.0.2.11:2379".into(),
                    metrics_port: 2381,
                    client_http_port: 2382,
                    max_learners: 0,
                    settings: None,
                    restart: None,
                    ask: vec!["https://192.0.2.10:12379".into()],
                    bootstrap: None,
                    drain: None,
                    archive: None,
                    retire: false,
                },
            }),
            boot: None,
            count_clients: Vec::new(),
            count_own: Vec::new(),
            preflight: None,
            evicted: None,
            backups: Vec::new(),
            evictions: 0,
        },
    );
    member.metadata.namespace = Some("etcd-system".into());
    member
}

pub(crate) fn boot() -> EtcdMember {
    let mut member = member();
    member.metadata.name = Some("kube-etcd-boot".into());
    member.spec.role = Role::Boot;
    member.spec.seat = None;
    member.spec.boot =
        Some(BootSpec { client_endpoint: "https://192.0.2.10:12379".into(), snapshot: None, drain: None, tombstone: None });
    member
}
