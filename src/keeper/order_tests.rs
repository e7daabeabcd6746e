//! Orders that must not be followed.

#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
use crate::contract::{EtcdSettings, Run};

pub(crate) fn order(lineage: u64, sequence: u64) -> Order {
    Order {
        format: FORMAT,
        lineage,
        sequence,
        cluster_id: Some("00000000000000c1".into()),
        member_id: Some("a1".into()),
        member_name: "cp1-1".into(),
        run: Run::Run,
        etcd: EtcdSettings {
            peer_url: "https://10.0.0.1:2380".into(),
            client_url: "https://10.0.0.1:2379".into(),
            metrics_port: 2381,
            client_http_port: 2382,
            max_learners: 0,
            quota_backend_bytes: 0,
            heartbeat_ms: 0,
            election_ms: 0,
        },
        ask: vec!["https://[fd00::1]:2379".into()],
        permission: None,
        drain: None,
        archive: None,
        retire: false,
        restart: None,
        keeper: None,
    }
}

fn load_text(text: &[u8], state: &State) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("order.json");
    fs::write(&path, text).unwrap();
    load(&path, state)
}

fn accepted(order: &Order) -> State {
    State {
        order_lineage: order.lineage,
        order_sequence: order.sequence,
        last_order: Some(Box::new(order.clone())),
        ..State::default()
    }
}

#[test]
fn an_older_order_is_refused_and_a_newer_one_accepted() {
    let state = accepted(&order(2, 5));
    for (lineage, sequence, accept) in [(2, 5, true), (2, 6, true), (3, 0, true), (2, 4, false), (1, 9, false)] {
        let new = order(lineage, sequence);
        let loaded = load_text(&serde_json::to_vec(&new).unwrap(), &state);
        let expected = if accept { new } else { order(2, 5) };
        assert_eq!(loaded.order, Some(expected));
        assert_eq!(loaded.refused.is_none(), accept, "{:?}", loaded.refused);
    }
}

#[test]
fn an_order_that_takes_back_that_a_member_runs_is_refused() {
    let told = |run: Run, id: Option<&str>, name: &str, sequence: u64| Order {
        run,
        member_id: id.map(str::to_owned),
        cluster_id: id.map(|_| "c1".into()),
        member_name: name.into(),
        ..order(1, sequence)
    };
    let runs = told(Run::Run, Some("a1"), "cp1-2", 1);
    let refused = |new: &Order, state: &State| load_text(&serde_json::to_vec(new).unwrap(), state).refused.is_some();
    let after = |new: Order| refused(&new, &accepted(&runs));
    assert!(after(told(Run::Wait, None, "cp1-2", 9)), "as before it was added");
    assert!(after(told(Run::Run, Some("a1"), "cp1-1", 9)), "its data is under another name");
    assert!(!after(told(Run::Run, Some("a1"), "cp1-2", 9)));
    assert!(!after(told(Run::Stop, Some("a1"), "cp1-2", 9)));
    assert!(!after(told(Run::Wait, None, "cp1-3", 9)), "the node's next member");
    assert!(!after(Order { lineage: 2, ..told(Run::Wait, None, "cp1-2", 1) }), "another life");
    let removed = State { removed: vec!["a1".into()], ..accepted(&runs) };
    assert!(!refused(&told(Run::Wait, None, "cp1-2", 9), &removed), "its member is gone, and its name is given again");
    let waits = accepted(&told(Run::Wait, None, "cp1-2", 1));
    assert!(!refused(&told(Run::Wait, None, "cp1-2", 2), &waits));
}

#[test]
fn a_missing_or_torn_order_leaves_the_last_one_in_force() {
    let state = accepted(&order(1, 1));
    let text = serde_json::to_vec(&order(1, 2)).unwrap();
    for length in 0..text.len() {
        let loaded = load_text(&text[..length], &state);
        assert_eq!(loaded.order, Some(order(1, 1)));
        assert!(loaded.refused.unwrap().contains("torn"));
        assert_eq!(load_text(&text[..length], &State::default()).order, None);
    }
    let gone = load(std::path::Path::new("/nowhere/order.json"), &state);
    assert_eq!(gone.order, Some(order(1, 1)));
    assert!(gone.refused.unwrap().contains("missing"));
    let never = load(std::path::Path::new("/nowhere/order.json"), &State::default());
    assert_eq!(never, Loaded { order: None, refused: None });
}

#[test]
fn an_unknown_format_is_refused_whatever_else_it_holds() {
    let loaded = load_text(br#"{"format": 2, "life": "new"}"#, &accepted(&order(1, 1)));
    assert_eq!(loaded.order, Some(order(1, 1)));
    assert!(loaded.refused.unwrap().contains("format 2"));
}

#[test]
fn what_an_enemy_may_write_is_refused_and_named() {
    type Spoil = fn(&mut Order);
    let cases: [(&str, Spoil); 12] = [
        ("memberName", |o| o.member_name = "../../etc".into()),
        ("memberName", |o| o.member_name = "archive".into()),
        ("memberName", |o| o.member_name = ".hidden".into()),
        ("memberName", |o| o.member_name = "a=https://1.2.3.4:1,b".into()),
        ("memberName", |o| o.member_name = "a".repeat(300)),
        ("memberName", |o| o.member_name = String::new()),
        ("etcd.peerUrl", |o| o.etcd.peer_url = "https://10.0.0.1:2380,https://6.6.6.6:1".into()),
        ("etcd.clientUrl", |o| o.etcd.client_url = "http://10.0.0.1:2379".into()),
        ("ask", |o| o.ask.push("https://name:2379".into())),
        ("clusterId", |o| o.cluster_id = Some("xyz".into())),
        ("memberId", |o| o.cluster_id = None),
        ("etcd.electionMs", |o| o.etcd.heartbeat_ms = 400),
    ];
    for (field, spoil) in cases {
        let mut bad = order(1, 2);
        spoil(&mut bad);
        let loaded = load_text(&serde_json::to_vec(&bad).unwrap(), &accepted(&order(1, 1)));
        assert_eq!(loaded.order, Some(order(1, 1)), "{field}");
        assert!(loaded.refused.as_ref().unwrap().contains(field), "{:?}", loaded.refused);
    }
}
