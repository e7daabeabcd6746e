use super::*;
use crate::testing;

fn args() -> AgentArgs {
    testing::args(std::path::Path::new("/nowhere"))
}

fn refused(change: impl FnOnce(&mut EtcdMember)) -> String {
    let mut member = testing::member();
    change(&mut member);
    let problem = validate(&member, &args()).expect_err("an enemy's spec was accepted");
    assert_eq!(problem.reason, Reason::InvalidSpec);
    assert!(!problem.message.chars().any(char::is_control), "{problem}");
    assert!(problem.message.len() < 600, "{problem}");
    problem.message
}

fn seat(member: &mut EtcdMember) -> &mut Seat {
    member.spec.seat.as_mut().unwrap()
}

#[test]
fn ordinary_specs_pass() {
    validate(&testing::member(), &args()).unwrap();
    validate(&testing::boot(), &args()).unwrap();
    let mut candidate = testing::member();
    candidate.spec.role = Role::Candidate;
    candidate.spec.seat = None;
    validate(&candidate, &args()).unwrap();
}

#[test]
fn names_of_an_enemy_are_refused() {
    let long = "a".repeat(64);
    for evil in ["", "..", "../../etc", "a/b", "A", "-a", "a-", "a..b", "a\nb", "a\0b", "a b", "é", "$(id)", long.as_str()] {
        assert!(refused(|m| m.spec.cluster_name = evil.into()).starts_with("spec.clusterName"), "{evil:?}");
        assert!(refused(|m| m.spec.node_name = evil.into()).starts_with("spec.nodeName"), "{evil:?}");
        assert!(refused(|m| seat(m).order.member_name = evil.into()).starts_with("spec.seat.order.memberName"), "{evil:?}");
    }
    // A good name, but of another directory.
    for evil in ["archive", "cp2-1", "cp1-2"] {
        assert!(refused(|m| seat(m).order.member_name = evil.into()).contains("<spec.nodeName>"), "{evil:?}");
    }
}

#[test]
fn orders_of_backups_of_an_enemy_are_refused() {
    let order = |name: &str, id: &str| BackupOrder {
        name: name.into(),
        id: id.into(),
        keep: 0,
        max_age_seconds: 0,
        timeout_seconds: 600,
    };
    let good = order("nightly", "run-1");
    let mut member = testing::member();
    member.spec.backups = vec![good.clone(), order("hourly", "run-1")];
    validate(&member, &args()).unwrap();
    for evil in ["", "..", "../x", "a/b", "A", "a\nb"] {
        assert!(refused(|m| m.spec.backups = vec![order(evil, "run-1")]).starts_with("spec.backups[0].name"), "{evil:?}");
        assert!(refused(|m| m.spec.backups = vec![order("nightly", evil)]).starts_with("spec.backups[0].id"), "{evil:?}");
    }
    let never = BackupOrder { timeout_seconds: 0, ..good.clone() };
    assert!(refused(|m| m.spec.backups = vec![never]).contains("timeoutSeconds"));
    assert!(refused(|m| m.spec.backups = vec![good.clone(), good.clone()]).contains("twice"));
    assert!(refused(|m| m.spec.backups = (0..65).map(|n| order(&format!("b{n}"), "run")).collect()).contains("64"));
}

#[test]
fn urls_are_https_by_ip_only() {
    for evil in [
        "http://192.0.2.1:2379",
        "https://etcd.example:2379",
        "https://192.0.2.1",
        "https://192.0.2.1:0",
        "https://192.0.2.1:2379/",
        "https://192.0.2.1:2379,https://192.0.2.2:2379",
        "https://a@192.0.2.1:2379",
        "https://0.0.0.0:2379",
        "https://192.0.2.1:99999",
        "https://192.0.2.1:2379 --force-new-cluster",
        "",
    ] {
        assert!(refused(|m| seat(m).order.peer_url = evil.into()).contains("order.peerURL"), "{evil:?}");
        assert!(refused(|m| seat(m).order.client_url = evil.into()).contains("order.clientURL"), "{evil:?}");
        assert!(refused(|m| seat(m).order.ask = vec![evil.into()]).contains("order.ask"), "{evil:?}");
    }
    let mut v6 = testing::member();
    seat(&mut v6).order.ask = vec!["https://[2001:db8::1]:2379".into()];
    validate(&v6, &args()).unwrap();
}

#[test]
fn images_outside_of_the_allowed_repositories_are_refused() {
    let long = format!("registry.example/etcd:{}", "1".repeat(300));
    for evil in [
        "",
        "registry.example/etcd",
        "registry.example/etcd-evil:v3.6.16",
        "evil.example/etcd:v3.6.16",
        "registry.example/etcd:v3\nhostPID: true",
        "registry.example/etcd:\"v3\"",
        "mirror.example/../evil:v1",
        "mirror.example//evil:v1",
        long.as_str(),
    ] {
        assert!(refused(|m| seat(m).pod.image = evil.into()).starts_with("spec.seat.image"), "{evil:?}");
    }
    for good in ["registry.example/etcd:v3.6.16", "registry.example/etcd@sha256:00ff", "mirror.example/any/etcd:v3.6.16"] {
        let mut member = testing::member();
        seat(&mut member).pod.image = good.into();
        validate(&member, &args()).unwrap();
    }
    let none = AgentArgs { allowed_image_prefixes: Vec::new(), ..args() };
    assert!(validate(&testing::member(), &none).is_err());
}

#[test]
fn labels_and_annotations_of_an_enemy_are_refused() {
    for (key, value) in [
        ("a", "x\ny"),
        ("a\n", "x"),
        ("a/b/c", "x"),
        ("", "x"),
        ("etcd.database.coreos.com/cluster", "other"),
        ("kubernetes.io/config.mirror", "x"),
        ("container.apparmor.security.beta.kubernetes.io/etcd", "unconfined"),
    ] {
        assert!(refused(|m| drop(seat(m).pod.labels.insert(key.into(), value.into()))).contains("spec.seat.labels"), "{key:?}");
        assert!(
            refused(|m| drop(seat(m).pod.annotations.insert(key.into(), value.into()))).contains("spec.seat.annotations"),
            "{key:?}"
        );
    }
    refused(|m| drop(seat(m).pod.annotations.insert("a".into(), "x".repeat(5000))));
    refused(|m| seat(m).pod.labels = (0..65).map(|n| (format!("k{n}"), "x".into())).collect());
}

#[test]
fn quantities_are_quantities_of_cpu_and_memory() {
    for (key, value) in
        [("cpu", "-1"), ("cpu", "1e9"), ("memory", "1 Gi"), ("memory", ""), ("memory", "Gi"), ("gpu", "1"), ("cpu", "1.")]
    {
        refused(|m| drop(seat(m).pod.limits.insert(key.into(), value.into())));
    }
    for (key, value) in [("cpu", "1"), ("cpu", "1.5"), ("memory", "2Gi"), ("memory", "500M")] {
        let mut member = testing::member();
        seat(&mut member).pod.limits.insert(key.into(), value.into());
        validate(&member, &args()).unwrap();
    }
}

#[test]
fn ports_are_in_range_and_different() {
    refused(|m| seat(m).probe_port = 0);
    refused(|m| seat(m).probe_port = 2379);
    refused(|m| seat(m).order.metrics_port = 2383);
    refused(|m| seat(m).order.client_http_port = 2380);
}

#[test]
fn ids_that_become_file_names_are_plain() {
    for evil in ["../x", "a/b", "a b", "", "a\n", ".x"] {
        let mut member = testing::boot();
        member.spec.boot.as_mut().unwrap().snapshot = Some(evil.into());
        assert!(validate(&member, &args()).is_err(), "{evil:?}");
        refused(|m| seat(m).order.drain = Some(evil.into()));
    }
    refused(|m| seat(m).order.member_id = Some("xyz".into()));
    refused(|m| seat(m).order.cluster_id = Some("0123456789abcdef0".into()));
    refused(|m| m.spec.nonce = "n".repeat(100_000));
    for evil in ["", "a1", "../keeper", &"A1".repeat(32), &"a1".repeat(33), &"xy".repeat(32)] {
        let message = refused(|m| seat(m).keeper = Some(evil.into()));
        assert!(message.starts_with("spec.seat.keeper"), "{message}");
    }
    let mut member = testing::member();
    seat(&mut member).keeper = Some("a1".repeat(32));
    validate(&member, &args()).unwrap();
}

#[test]
fn a_role_has_what_belongs_to_it_and_nothing_else() {
    refused(|m| m.spec.seat = None);
    refused(|m| m.spec.role = Role::Candidate);
    refused(|m| m.spec.role = Role::Boot);
}

#[test]
fn a_drain_asks_somebody_else() {
    use etcd_operator_api::member::BootDrain;
    let drain = |ask: Vec<String>| BootDrain { id: "d1".into(), member_id: "1".into(), cluster_id: "2".into(), ask };
    for ask in [vec![], vec!["https://192.0.2.10:12379".to_owned()], vec!["http://192.0.2.11:2379".to_owned()]] {
        let mut member = testing::boot();
        member.spec.boot.as_mut().unwrap().drain = Some(drain(ask.clone()));
        assert!(validate(&member, &args()).is_err(), "{ask:?}");
    }
    let mut member = testing::boot();
    member.spec.boot.as_mut().unwrap().drain = Some(drain(vec!["https://192.0.2.11:2379".into()]));
    validate(&member, &args()).unwrap();
}

#[test]
fn certificates_are_pem_of_bounded_size() {
    let with = |pem: String| {
        move |m: &mut EtcdMember| {
            m.spec.certificates =
                Some(Certificates { ca: pem, peer: None, server: None, client: "-----BEGIN CERTIFICATE-----\n".into() })
        }
    };
    refused(with(String::new()));
    refused(with("-----BEGIN PRIVATE KEY-----".into()));
    refused(with(format!("-----BEGIN CERTIFICATE-----{}", "A".repeat(70_000))));
    refused(with("-----BEGIN CERTIFICATE-----\u{1b}[2J".into()));
}
