use super::*;
use crate::node::AgentArgs;
use crate::testing;
use etcd_operator_api::member::Certificates;

fn at(root: &std::path::Path) -> Memory {
    let args = testing::args(root);
    std::fs::create_dir_all(&args.static_pod_path).unwrap();
    // Any file will do as the binary.
    let keeper_binary = root.join("binary");
    std::fs::write(&keeper_binary, "binary").unwrap();
    Memory::new(Agent::new(AgentArgs { keeper_binary, ..args }, Arc::new(crate::host::Linux)))
}

fn tree(root: &std::path::Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                all.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    all.sort();
    all
}

fn certified(member: &mut EtcdMember, csr: &Csr) {
    use crate::pki::tests::{ca, sign};
    let ca = ca();
    member.spec.certificates = Some(Certificates {
        ca: ca.pem(),
        peer: csr.peer.as_deref().map(|csr| sign(csr, &ca)),
        server: csr.server.as_deref().map(|csr| sign(csr, &ca)),
        client: sign(&csr.client, &ca),
    });
}

#[tokio::test]
async fn a_member_is_set_up_step_by_step_and_then_at_rest() {
    let root = tempfile::tempdir().unwrap();
    let mut memory = at(root.path());
    let mut member = testing::member();
    let status = memory.pass(&Arc::new(member.clone())).await;
    assert_eq!((status.problem.as_str(), status.observed_nonce.as_str()), ("", "n1"));
    let own = "9a3a45d01531a20e89ac6ae10b0b0beb0492acd7216a368aa062d1a5fecaf9cd";
    assert_eq!(status.offers.as_deref(), Some(own), "the SHA-256 of `binary`");
    let manifest = "manifests/etcd-kube-etcd.yaml".to_owned();
    assert!(!tree(root.path()).contains(&manifest), "nothing runs before its certificates are there");

    certified(&mut member, status.csr.as_ref().unwrap());
    let member = Arc::new(member);
    let status = memory.pass(&member).await;
    assert_eq!(status.problem, "");
    let files = tree(root.path());
    for file in [
        "operator/etcd-system/kube-etcd/order.json",
        "operator/etcd-system/kube-etcd/bin/keeper",
        "data/etcd-system/kube-etcd/.etcd-operator",
        &manifest,
    ] {
        assert!(files.contains(&file.to_owned()), "{file} of {files:?}");
    }
    assert_eq!(memory.pass(&member).await, status, "at rest nothing changes");
    assert_eq!(tree(root.path()), files);
}

#[tokio::test]
async fn data_is_measured_while_that_is_asked_for_and_not_at_rest() {
    let root = tempfile::tempdir().unwrap();
    let mut memory = at(root.path());
    let mut member = testing::member();
    memory.pass(&Arc::new(member.clone())).await;
    let db = root.path().join("data/etcd-system/kube-etcd/cp1-1/member/snap/db");
    std::fs::create_dir_all(db.parent().unwrap()).unwrap();
    let grow = |mib: u64| std::fs::File::create(&db).unwrap().set_len(mib << 20).unwrap();
    // Another member's, of an earlier life of the node.
    let earlier = root.path().join("data/etcd-system/kube-etcd/cp1-0/member/snap/db");
    std::fs::create_dir_all(earlier.parent().unwrap()).unwrap();
    std::fs::File::create(earlier).unwrap().set_len(500 << 20).unwrap();
    grow(3);
    assert_eq!(memory.pass(&Arc::new(member.clone())).await.data, None);

    member.spec.seat.as_mut().unwrap().measure_data = true;
    let asked = Arc::new(member.clone());
    for mib in [3, 7] {
        grow(mib);
        let size = DataSize { member: "cp1-1".into(), mib: i64::try_from(mib).unwrap() };
        assert_eq!(memory.pass(&asked).await.data, Some(size));
    }
}

#[tokio::test]
async fn an_enemys_spec_writes_nothing_and_keeps_the_status() {
    let root = tempfile::tempdir().unwrap();
    let mut memory = at(root.path());
    let before = tree(root.path());
    let mut member = testing::member();
    member.spec.cluster_name = "../../../tmp/evil".into();
    member.status = Some(EtcdMemberStatus { file_system: Some("00ff".into()), ..EtcdMemberStatus::default() });
    let status = memory.pass(&Arc::new(member)).await;
    assert_eq!(status.problem, "InvalidSpec");
    assert!(status.problem_message.contains("spec.clusterName"));
    assert_eq!(status.file_system.as_deref(), Some("00ff"));
    assert_eq!(tree(root.path()), before);
}

#[tokio::test]
async fn a_member_that_becomes_a_candidate_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut memory = at(root.path());
    let mut member = testing::member();
    let status = memory.pass(&Arc::new(member.clone())).await;
    certified(&mut member, status.csr.as_ref().unwrap());
    memory.pass(&Arc::new(member.clone())).await;
    let files = tree(root.path());
    member.spec.role = Role::Candidate;
    member.spec.seat = None;
    memory.pass(&Arc::new(member)).await;
    assert_eq!(tree(root.path()), files);
}

#[tokio::test]
async fn the_clock_is_that_of_the_first_sight_of_a_nonce() {
    let root = tempfile::tempdir().unwrap();
    let mut memory = at(root.path());
    let mut member = testing::boot();
    let first = memory.pass(&Arc::new(member.clone())).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(memory.pass(&Arc::new(member.clone())).await.clock_ms, first.clock_ms);
    // Another agent process, the same nonce: no news.
    member.status = Some(first.clone());
    assert_eq!(at(root.path()).pass(&Arc::new(member.clone())).await.clock_ms, first.clock_ms);
    member.spec.nonce = "n2".into();
    let second = memory.pass(&Arc::new(member)).await;
    assert!(second.clock_ms > first.clock_ms);
    assert_eq!(second.observed_nonce, "n2");
}

#[tokio::test]
async fn boots_keys_are_apart_from_the_seats() {
    let root = tempfile::tempdir().unwrap();
    let mut memory = at(root.path());
    let status = memory.pass(&Arc::new(testing::boot())).await;
    let csr = status.csr.unwrap();
    assert!(csr.peer.is_none() && csr.server.is_none());
    assert_eq!(
        tree(root.path()).iter().filter(|file| file.ends_with(".key")).collect::<Vec<_>>(),
        ["operator/etcd-system/kube-etcd/boot/pki/client.key"]
    );
    let boot = status.boot.unwrap();
    assert!(!boot.process_found && boot.manifest.is_none());
}
