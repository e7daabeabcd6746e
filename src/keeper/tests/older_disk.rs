//! A disk that was rolled back, or a log that was cut short, under a voter that promised to keep what is gone (F12, F18).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs;

use common::{Bed, Node, copy_dir, wait_for};
use etcd_operator_keeper::contract::Phase;

/// A voter beside two others, so that they answer while it is down; it leaves its marks often.
fn voter(bed: &Bed, name: &str) -> Node {
    bed.marking_voter(name, &["127.0.0.1"])
}

/// Another disk in the place of the one that is there.
fn mount(node: &Node, disk: &std::path::Path) {
    fs::remove_dir_all(node.data_dir()).unwrap();
    copy_dir(disk, &node.data_dir());
}

/// Boot and another one are gone, and this one has lost its power, too: it is alone on the data that it has.
fn comes_back_alone(bed: &mut Bed, other: &mut Node, node: &mut Node) {
    bed.boot.as_mut().unwrap().end();
    other.power_off();
    node.power_off();
    node.start_keeper();
    node.wait_phase(Phase::Running, "ColdStart");
}

/// The mark that a node has left.
fn mark(bed: &Bed, node: &Node) -> Option<u64> {
    let key = format!("etcd-operator/marks/{}", node.order.etcd.peer_url);
    let read = bed.etcdctl(&bed.boot().client, &["get", &key, "--print-value-only=false"]);
    let value = read["kvs"].as_array()?.first()?["value"].as_str()?.to_owned();
    let json: serde_json::Value = serde_json::from_slice(&decode(&value)).unwrap();
    assert_eq!(json["member"], node.member_id());
    json["index"].as_u64()
}

fn decode(base64: &str) -> Vec<u8> {
    let digit = |c: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|d| *d == c);
    let bits: Vec<u32> = base64.bytes().filter_map(digit).map(|d| u32::try_from(d).unwrap()).collect();
    let bytes = bits.chunks(4).flat_map(|chunk| {
        let word = chunk.iter().fold(0, |word, digit| word << 6 | digit) << (6 * (4 - chunk.len()));
        word.to_be_bytes()[1..chunk.len()].to_vec()
    });
    bytes.collect()
}

/// Writes until the node's mark is beyond what it had applied before.
fn write_on(bed: &Bed, node: &Node) {
    let status = bed.etcdctl(&node.client(), &["endpoint", "status"]);
    let before = status[0]["Status"]["raftAppliedIndex"].as_u64().unwrap();
    wait_for(
        "a later mark",
        || node.log(),
        || {
            bed.etcdctl(&bed.boot().client, &["put", "key", "value"]);
            mark(bed, node).filter(|mark| *mark > before + 10)
        },
    );
}

fn wal(node: &Node) -> std::path::PathBuf {
    let mut segments: Vec<_> = fs::read_dir(node.data_dir().join("member/wal")).unwrap().map(|e| e.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|e| e == "wal"));
    segments.sort();
    segments.pop().unwrap()
}

#[test]
fn a_voter_whose_disk_was_rolled_back_or_whose_log_was_cut_short_is_refused() {
    let mut bed = Bed::with_boot();
    let mut node = voter(&bed, "cp1");
    let mut other = voter(&bed, "cp2");
    node.power_off();
    let image = bed.tmp.path().join("image");
    copy_dir(&node.data_dir(), &image);
    // As it is it starts, of course.
    node.start_keeper();
    node.wait_phase(Phase::Running, "Listed");
    node.wait_ready();
    write_on(&bed, &node);
    node.power_off();
    let newest = bed.tmp.path().join("newest");
    fs::rename(node.data_dir(), &newest).unwrap();

    copy_dir(&image, &node.data_dir());
    node.start_keeper();
    let state = node.wait_phase(Phase::Refused, "LogBehind");
    assert!(state.message.contains("the log ends at"), "{}", state.message);
    node.stays(Phase::Refused, "LogBehind");
    node.power_off();

    // Nor where nobody answers any more: with one other it would be a quorum that has forgotten.
    other.power_off();
    node.start_keeper();
    node.wait_phase(Phase::Refused, "LogBehind");
    node.stays(Phase::Refused, "LogBehind");
    node.power_off();
    other.start_keeper();
    other.wait_ready();

    // etcd would cut off what it cannot read, and go on: a log that breaks off somewhere looks torn.
    mount(&node, &newest);
    let held = fs::metadata(image.join("member/wal").join(wal(&node).file_name().unwrap())).map(|m| m.len()).unwrap();
    assert_eq!(held, fs::metadata(wal(&node)).unwrap().len(), "both are preallocated");
    let bytes = fs::read(wal(&node)).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap();
    fs::write(wal(&node), &bytes[..end / 2]).unwrap();
    node.start_keeper();
    node.wait_phase(Phase::Refused, "LogBehind");
    node.power_off();

    // The right disk again, and then whoever answers.
    mount(&node, &newest);
    node.start_keeper();
    node.wait_phase(Phase::Running, "Listed");
    node.wait_ready();
    assert_eq!(node.state().held, None);
    comes_back_alone(&mut bed, &mut other, &mut node);
}

#[test]
fn where_nobody_answers_it_starts_on_what_it_has() {
    let mut bed = Bed::with_boot();
    let mut node = voter(&bed, "cp1");
    let mut other = voter(&bed, "cp2");
    write_on(&bed, &node);
    comes_back_alone(&mut bed, &mut other, &mut node);
}

#[test]
fn a_mark_of_another_member_or_one_that_no_keeper_wrote_says_nothing() {
    let bed = Bed::with_boot();
    let mut node = voter(&bed, "cp1");
    let _other = voter(&bed, "cp2");
    let key = format!("etcd-operator/marks/{}", node.order.etcd.peer_url);
    for value in [r#"{"member":"00000000000000aa","index":999999999}"#, "-"] {
        node.power_off();
        bed.etcdctl(&bed.boot().client, &["put", &key, "--", value]);
        node.start_keeper();
        node.wait_phase(Phase::Running, "Listed");
    }
}
