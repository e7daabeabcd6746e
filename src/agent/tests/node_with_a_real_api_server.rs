//! The agent against a real kube-apiserver and real etcds: what the controller orders through EtcdMember happens on the "node", and
//! boot's end goes by the members' word alone.
//!
//! Needs `KUBE_BIN` and `ETCD_BIN` (see tests/bed/go/build.sh).

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends where something is not as expected"
)]

mod harness;

use std::time::Duration;

use etcd_operator_api::member::{
    BackupReport, BootDrain, BootDrainStep, BootSpec, EtcdMember, EtcdMemberSpec, OrderSpec, PreflightSpec, Role, RunSpec, Seat,
};
use harness::{Bed, CLUSTER, Etcd, NODE, eventually};
use rustix::process::Signal;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
const BOOT: &str = "kube-etcd-boot";
const MEMBER: &str = "kube-etcd-cp1";

fn spec(role: Role) -> EtcdMemberSpec {
    EtcdMemberSpec {
        cluster_name: CLUSTER.into(),
        node_name: NODE.into(),
        role,
        generation: 1,
        lineage: 0,
        nonce: "n1".into(),
        certificates: None,
        seat: None,
        boot: None,
        count_clients: Vec::new(),
        count_own: Vec::new(),
        preflight: None,
        evicted: None,
        backups: Vec::new(),
        evictions: 0,
    }
}

fn boot_spec(boot: &Etcd) -> EtcdMemberSpec {
    let boot = BootSpec { client_endpoint: boot.endpoint.clone(), snapshot: None, drain: None, tombstone: None };
    EtcdMemberSpec { boot: Some(boot), ..spec(Role::Boot) }
}

fn seat() -> Seat {
    Seat {
        pod: etcd_operator_api::member::Pod {
            image: "registry.example/etcd:v3.6.16".into(),
            labels: [].into(),
            annotations: [].into(),
            requests: [("cpu".to_owned(), "100m".to_owned())].into(),
            limits: [].into(),
        },
        roll_out: None,
        rolled_back: None,
        prove: None,
        snapshot: None,
        probe_port: 2383,
        measure_data: false,
        keeper: None,
        order: OrderSpec {
            sequence: 1,
            run: RunSpec::Wait,
            cluster_id: None,
            member_id: None,
            member_name: "cp1-1".into(),
            peer_url: "https://192.0.2.11:2380".into(),
            client_url: "https://192.0.2.11:2379".into(),
            metrics_port: 2381,
            client_http_port: 2382,
            max_learners: 0,
            settings: None,
            restart: None,
            ask: Vec::new(),
            bootstrap: None,
            drain: None,
            archive: None,
            retire: false,
        },
    }
}

fn step(member: &EtcdMember) -> Option<BootDrainStep> {
    member.status.as_ref()?.boot.as_ref()?.drain_step
}

/// Boot and a second voter, the boot object certified, and the drain that will be ordered.
async fn pair(bed: &Bed) -> (Etcd, Etcd, BootDrain) {
    let boot = bed.boot().await;
    let second = bed.second(&boot).await;
    bed.create(BOOT, boot_spec(&boot)).await;
    bed.certify(BOOT).await;
    let list = bed.client(&second).await.member_list(Duration::from_secs(5)).await.unwrap();
    let member = list.members.iter().find(|member| member.name == "boot").unwrap();
    let drain = BootDrain {
        id: "d1".into(),
        member_id: member.id.to_string(),
        cluster_id: list.cluster_id.to_string(),
        ask: vec![second.endpoint.clone()],
    };
    (boot, second, drain)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_is_prepared_reported_and_then_left_at_rest() {
    let bed = Bed::up().await;
    let _agent = bed.agent();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let preflight = PreflightSpec {
        id: "p1".into(),
        image: None,
        need_bytes: None,
        seats: Vec::new(),
        ports: vec![taken.clone()],
        reach: vec![taken.clone()],
    };
    bed.create(MEMBER, EtcdMemberSpec { seat: Some(seat()), preflight: Some(preflight), ..spec(Role::Member) }).await;

    let member = bed
        .wait(MEMBER, "nonce, clock, CSRs and preflight", SOON, |member| {
            member.status.as_ref().is_some_and(|status| status.preflight.is_some())
        })
        .await;
    let status = member.status.unwrap();
    assert_eq!((status.observed_nonce.as_str(), status.problem.as_str()), ("n1", ""), "{status:#?}");
    let checks = status.preflight.unwrap().checks;
    let failed: Vec<_> =
        checks.iter().filter(|check| !check.ok && check.name != "Disk").map(|check| check.name.as_str()).collect();
    assert_eq!(failed, ["Port"], "{checks:#?}");
    let manifest = bed.path("manifests/etcd-kube-etcd.yaml");
    assert!(!manifest.exists(), "no pod before its certificates");

    bed.certify(MEMBER).await;
    let order = bed.path("operator/etcd-system/kube-etcd/order.json");
    eventually("order and manifest are written", SOON, || async { order.exists() && manifest.exists() }).await;
    assert!(bed.path("operator/etcd-system/kube-etcd/pki/server.crt").exists());

    // The keeper speaks through its file.
    let state = json!({ "format": 1, "readsOrders": [1], "keeperVersion": "0.1.0", "etcdVersion": "3.6.16", "phase": "Waiting", "reason": "OrderedToWait", "orderSequence": 1 });
    std::fs::write(bed.path("operator/etcd-system/kube-etcd/state.json"), state.to_string()).unwrap();
    bed.wait(MEMBER, "the keeper's state in the status", SOON, |member| {
        member
            .status
            .as_ref()
            .and_then(|status| status.keeper.as_ref())
            .is_some_and(|keeper| keeper.etcd_version.as_deref() == Some("3.6.16"))
    })
    .await;

    // A manifest deleted by hand comes back, the same to the byte.
    let text = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    eventually("the manifest is restored", SOON, || async { manifest.exists() }).await;
    assert_eq!(std::fs::read(&manifest).unwrap(), text);

    // At rest: four ticks, no write.
    let version = |member: EtcdMember| member.metadata.resource_version;
    let before = version(bed.members().get(MEMBER).await.unwrap());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(version(bed.members().get(MEMBER).await.unwrap()), before, "something was written at rest");

    // Members of other nodes are none of ours.
    let other = EtcdMemberSpec { node_name: "cp2".into(), ..spec(Role::Candidate) };
    bed.create("kube-etcd-cp2", other).await;
    // An enemy's spec: refused by name, nothing written.
    bed.create("evil", EtcdMemberSpec { cluster_name: "../../evil".into(), ..spec(Role::Candidate) }).await;
    let evil = bed
        .wait("evil", "the refusal", SOON, |member| member.status.as_ref().is_some_and(|status| status.problem == "InvalidSpec"))
        .await;
    assert!(evil.status.unwrap().problem_message.contains("spec.clusterName"));
    assert!(bed.members().get("kube-etcd-cp2").await.unwrap().status.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn boot_is_copied_drained_killed_after_its_removal_and_buried_while_the_api_is_away() {
    let bed = Bed::up().await;
    let _agent = bed.agent();
    let (mut boot, second, drain) = pair(&bed).await;

    // The snapshot, before anything is changed.
    bed.patch(BOOT, json!({ "boot": { "snapshot": "s1" }, "countClients": [boot.endpoint.trim_start_matches("https://")] }))
        .await;
    let member = bed
        .wait(BOOT, "the snapshot", SOON, |member| {
            member.status.as_ref().and_then(|status| status.boot.as_ref()).is_some_and(|boot| boot.snapshot.is_some())
        })
        .await;
    let seen = member.status.unwrap().boot.unwrap();
    assert!(seen.process_found, "{seen:#?}");
    assert_eq!(seen.manifest, Some(bed.path("manifests/boot-etcd.yaml").display().to_string()));
    let snapshot = seen.snapshot.unwrap();
    let file = std::path::Path::new(&snapshot.path);
    assert_eq!(i64::try_from(std::fs::metadata(file).unwrap().len()).unwrap(), snapshot.bytes);
    assert!(bed.snapshot_is_whole(file));
    // All of the cluster's Secrets are in it.
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file).unwrap().permissions()) & 0o777, 0o600);

    // Clients of boot are counted.
    let at_boot = bed.client(&boot).await;
    let watch = at_boot.hold_watch().await.unwrap();
    bed.wait(BOOT, "a client of boot", SOON, |member| {
        let clients = member.status.as_ref().map(|status| status.clients.clone()).unwrap_or_default();
        clients.first().is_some_and(|count| count.remotes.get("127.0.0.1").is_some_and(|count| *count >= 1))
    })
    .await;

    // The leader moved away, drain ordered; then the API goes away, and only then boot is removed.
    let at_second = bed.client(&second).await;
    let boot_id = drain.member_id.parse().unwrap();
    let second_id = at_second.member_list(SOON).await.unwrap().members.iter().find(|member| member.id != boot_id).unwrap().id;
    let _ = at_boot.move_leader(second_id).await;
    bed.patch(BOOT, json!({ "boot": { "drain": drain }, "countClients": [] })).await;
    let journal = bed.path("operator/etcd-system/kube-etcd/boot/drain.json");
    eventually("SIGTERM is recorded", SOON, || async {
        std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("Signalled"))
    })
    .await;
    bed.api_server.signal(Signal::STOP);
    at_second.member_remove(boot_id).await.unwrap();
    let removed = std::time::Instant::now();
    while boot.process.running() {
        assert!(removed.elapsed() < Duration::from_secs(3), "boot outlived its removal");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("boot was gone {} ms after MemberRemove returned", removed.elapsed().as_millis());
    drop(watch);
    eventually("boot's manifest is archived", SOON, || async {
        bed.path("operator/etcd-system/kube-etcd/boot/manifest-archive/boot-etcd.yaml").exists()
    })
    .await;
    assert!(!bed.path("manifests/boot-etcd.yaml").exists());

    bed.api_server.signal(Signal::CONT);
    bed.wait(BOOT, "the end of the drain", Duration::from_secs(60), |member| step(member) == Some(BootDrainStep::Gone)).await;

    // The tombstone.
    bed.patch(BOOT, json!({ "boot": { "tombstone": "t1" } })).await;
    bed.wait(BOOT, "the tombstone", SOON, |member| {
        member
            .status
            .as_ref()
            .and_then(|status| status.boot.as_ref())
            .is_some_and(|boot| boot.tombstone_id.as_deref() == Some("t1"))
    })
    .await;
    assert!(bed.path("boot").is_file());
    assert!(bed.path("boot.removed-by-etcd-operator/member").is_dir());
    assert!(bed.refuses_to_start(&bed.path("boot")), "an etcd started on the tombstone");
    // The other form of it, where the directory itself cannot be renamed.
    std::fs::create_dir(bed.path("other")).unwrap();
    std::fs::copy(bed.path("boot"), bed.path("other/member")).unwrap();
    assert!(bed.refuses_to_start(&bed.path("other")), "an etcd started on the tombstone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_is_not_removed_in_time_is_left_to_the_kubelet() {
    let bed = Bed::up().await;
    let _agent = bed.agent();
    let (_boot, _second, drain) = pair(&bed).await;
    bed.patch(BOOT, json!({ "boot": { "drain": drain } })).await;
    bed.wait(BOOT, "StartedAgain", Duration::from_secs(30), |member| step(member) == Some(BootDrainStep::StartedAgain)).await;
    assert!(bed.path("manifests/boot-etcd.yaml").exists(), "the manifest is the kubelet's word to start boot again");
    assert!(bed.path("boot").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_in_the_middle_goes_on_without_the_api() {
    let bed = Bed::up().await;
    let agent = bed.agent();
    let (mut boot, second, drain) = pair(&bed).await;
    let at_boot = bed.client(&boot).await;
    let _watch = at_boot.hold_watch().await.unwrap();
    bed.patch(BOOT, json!({ "boot": { "drain": drain } })).await;
    let journal = bed.path("operator/etcd-system/kube-etcd/boot/drain.json");
    eventually("SIGTERM is recorded", SOON, || async {
        std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("Signalled"))
    })
    .await;
    drop(agent);
    bed.api_server.signal(Signal::STOP);
    bed.client(&second).await.member_remove(drain.member_id.parse().unwrap()).await.unwrap();
    let _next = bed.agent();
    eventually("the journal ends", SOON, || async { std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("Gone")) })
        .await;
    assert!(!boot.process.running(), "boot was killed");
    assert!(!bed.path("manifests/boot-etcd.yaml").exists());
    bed.api_server.signal(Signal::CONT);
    bed.wait(BOOT, "the end of the drain", Duration::from_secs(60), |member| step(member) == Some(BootDrainStep::Gone)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_nothing_is_touched_and_with_it_all_is_put_right() {
    let mut bed = Bed::up().await;
    let _agent = bed.agent();
    bed.create(MEMBER, EtcdMemberSpec { seat: Some(seat()), ..spec(Role::Member) }).await;
    bed.certify(MEMBER).await;
    let manifest = bed.path("manifests/etcd-kube-etcd.yaml");
    eventually("the manifest is written", SOON, || async { manifest.exists() }).await;

    bed.api_server.signal(Signal::KILL);
    while bed.api_server.running() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A human recovers the cluster by hand meanwhile; a watch that broke is noticed at once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    std::fs::remove_file(&manifest).unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!manifest.exists(), "the agent changed the node by an old view");

    bed.restart_api_server().await;
    eventually("the manifest is restored", SOON, || async { manifest.exists() }).await;
    bed.patch(MEMBER, json!({ "nonce": "n2" })).await;
    bed.wait(MEMBER, "the new nonce", SOON, |member| member.status.as_ref().is_some_and(|status| status.observed_nonce == "n2"))
        .await;
}

fn report(member: &EtcdMember, id: &str) -> Option<BackupReport> {
    member.status.as_ref()?.backups.iter().find(|report| report.id == id).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_proven_and_kept_and_each_run_is_tried_once() {
    let bed = Bed::up().await;
    let agent = bed.agent();
    let boot = bed.boot().await;
    let client = bed.client(&boot).await;
    for n in 0..100 {
        client.put(&format!("key-{n}"), vec![b'x'; 1000], SOON).await.unwrap();
    }
    let own = client.status(SOON).await.unwrap();
    let mut seat = seat();
    seat.order.client_url.clone_from(&boot.endpoint);
    seat.order.cluster_id = Some(own.cluster_id.to_string());
    bed.create(MEMBER, EtcdMemberSpec { seat: Some(seat), ..spec(Role::Member) }).await;
    bed.certify(MEMBER).await;
    let order =
        |id: &str, timeout: i64| json!({ "backups": [{ "name": "nightly", "id": id, "keep": 2, "timeoutSeconds": timeout }] });
    let dir = bed.path("operator/etcd-system/kube-etcd/backups/nightly");
    let answered = |id: &'static str| bed.wait(MEMBER, "a report", SOON, move |member| report(member, id).is_some());

    for (n, id) in ["run-1", "run-2", "run-3"].into_iter().enumerate() {
        bed.patch(MEMBER, order(id, 60)).await;
        let said = report(&answered(id).await, id).unwrap();
        let taken = said.taken.unwrap_or_else(|| panic!("{}: {}", said.reason, said.message));
        assert_eq!((taken.etcd_version, taken.cluster_id), (own.version.clone(), own.cluster_id.to_string()));
        assert!(taken.revision >= own.revision && taken.kept == Some((n + 1).min(2) as i64));
        let stored = tokio::fs::File::open(&taken.path).await.unwrap();
        let db = bed.path("proven.db");
        let mut out = tokio::fs::File::create(&db).await.unwrap();
        let proven = etcd_operator_backup::prove(stored, &mut out).await.unwrap();
        assert_eq!((proven.sha256, proven.bytes as i64), (taken.sha256, taken.bytes));
        assert!(bed.snapshot_is_whole(&db));
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&dir).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700, "what is in etcd is for root");

    // A paused etcd: the run ends in time, and is not tried again by whichever agent.
    boot.process.signal(Signal::STOP);
    bed.patch(MEMBER, order("run-4", 1)).await;
    let said = report(&answered("run-4").await, "run-4").unwrap();
    assert!(said.taken.is_none() && said.message.contains("timeoutInSecond"), "{said:?}");
    boot.process.signal(Signal::CONT);
    drop(agent);
    let left = dir.join("20200101T000000Z-killed.db.zst#1");
    std::fs::write(&left, "of an agent that was killed").unwrap();
    let _agent = bed.agent();
    bed.patch(MEMBER, json!({ "nonce": "n2" })).await;
    let member = bed
        .wait(MEMBER, "the next agent", SOON, |member| member.status.as_ref().is_some_and(|status| status.observed_nonce == "n2"))
        .await;
    assert_eq!(report(&member, "run-4"), Some(said));

    bed.patch(MEMBER, order("run-5", 60)).await;
    assert!(report(&answered("run-5").await, "run-5").unwrap().taken.is_some_and(|taken| taken.kept == Some(2)));
    assert!(!left.exists());
}
