//! What is signed, and for which addresses.

use etcd_operator_api::EtcdClusterStatus;
use etcd_operator_api::member::{Csr, EtcdMemberStatus};
use k8s_openapi::api::core::v1::Node;
use rcgen::{CertificateParams, IsCa, KeyPair};
use serde_json::json;

use super::*;
use crate::controller::found::Kind;

pub(crate) fn ca() -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    Ca::from_pem("etcd-ca", &params.self_signed(&key).unwrap().pem(), &key.serialize_pem()).unwrap()
}

fn node(name: &str, ips: &[&str]) -> Node {
    let addresses: Vec<_> = ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    serde_json::from_value(json!({"metadata": {"name": name}, "status": {"addresses": addresses}})).unwrap()
}

pub(crate) fn view(nodes: Vec<Node>) -> View {
    let spec = json!({"selfHosted": {"bootMemberClientEndpoint": "https://10.0.0.9:12379"}});
    let cluster = serde_json::from_value(
        json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdCluster", "metadata": {"name": "c"}, "spec": spec}),
    );
    View {
        kind: Kind::Datastore,
        now_ms: clock::now_ms(),
        cluster: cluster.unwrap(),
        status: EtcdClusterStatus::default(),
        all_nodes: nodes.clone(),
        nodes,
        boot_node: None,
        repository: String::new(),
        members: Vec::new(),
        ca: Err(String::new()),
        pod_security: None,
        etcd: Err(String::new()),
    }
}

/// The EtcdMember of cp1, whose agent has made keys.
fn member() -> EtcdMember {
    let request = || {
        let key = KeyPair::generate().unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
    };
    let csr = Csr { peer: Some(request()), server: Some(request()), client: request() };
    let mut member = EtcdMember::new("c-cp1", members::blank("c", "cp1", Role::Member, 1));
    member.status = Some(EtcdMemberStatus { csr: Some(csr), ..EtcdMemberStatus::default() });
    member
}

#[test]
fn a_new_address_of_a_node_is_signed_once_and_one_that_another_node_claims_is_not() {
    let (right, ca, mut member) = (ca(), ca(), member());
    let mut sign = |nodes: Vec<Node>| {
        let new = certificates(&view(nodes), &ca, &member).unwrap();
        new.inspect(|new| member.spec.certificates = Some(new.clone()))
    };
    let ips = |all: &[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
    let first = sign(vec![node("cp1", &["10.0.0.1"])]).expect("the first ones");
    assert!(pki::covers(first.peer.as_ref().unwrap(), &ips(&["10.0.0.1"])));
    assert_eq!(sign(vec![node("cp1", &["10.0.0.1"])]), None, "at rest nothing is signed");
    assert_eq!(sign(Vec::new()), None, "nor where its addresses are not known");
    let both = vec![node("cp1", &["10.0.0.1", "fd00::1"])];
    let second = sign(both.clone()).expect("an address is new");
    for cert in [second.peer.as_ref().unwrap(), second.server.as_ref().unwrap()] {
        assert!(pki::covers(cert, &ips(&["10.0.0.1", "fd00::1"])));
    }
    assert_eq!(sign(both), None);
    let put_right = certificates(&view(vec![node("cp1", &["10.0.0.1"])]), &right, &member).unwrap();
    assert_eq!(put_right.map(|c| c.ca), Some(right.pem().to_owned()), "the Secret was put right");
    let sign = |nodes: Vec<Node>| certificates(&view(nodes), &ca, &member).unwrap();
    // A virtual address that wanders.
    assert_eq!(sign(vec![node("cp1", &["10.0.0.1", "10.0.0.100"]), node("cp2", &["10.0.0.2", "10.0.0.100"])]), None);
}

#[test]
fn a_boot_of_a_life_that_is_over_is_not_waited_for() {
    let orders = json!({"clientEndpoint": "https://10.0.0.1:12379", "tombstone": "t"});
    let orders: BootSpec = serde_json::from_value(orders).unwrap();
    let of = |lineages| tombstone_of(Some(&orders), &BootStatus::default(), lineages);
    assert_eq!(of((1, 1)), plan::Tombstone::Pending);
    assert_eq!(of((0, 1)), plan::Tombstone::Pending);
    assert_eq!(of((1, 2)), plan::Tombstone::Impossible);
}
