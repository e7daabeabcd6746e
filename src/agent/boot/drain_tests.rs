use super::*;
use crate::boot::tests::place;

fn order(ask: &str) -> BootDrain {
    BootDrain { id: "d1".into(), member_id: "00ab".into(), cluster_id: "00cd".into(), ask: vec![ask.into()] }
}

fn endpoint() -> SocketAddr {
    "192.0.2.10:12379".parse().unwrap()
}

fn boot_pod(place: &Place) {
    let text = "{kind: Pod, spec: {containers: [{name: etcd, command: [etcd, --listen-client-urls=https://192.0.2.10:12379]}]}}";
    std::fs::write(place.static_pods.join("boot.yaml"), text).unwrap();
}

fn written(place: &Place, step: BootDrainStep) {
    std::fs::create_dir_all(&place.dir).unwrap();
    let journal = Journal { drain: order("https://127.0.0.1:1"), endpoint: endpoint(), step, message: String::new() };
    files::write_json(&journal_file(&place.dir), &journal, files::SECRET).unwrap();
}

#[tokio::test]
async fn what_has_ended_is_not_begun_again() {
    for step in [BootDrainStep::Gone, BootDrainStep::StartedAgain, BootDrainStep::Failed] {
        let root = tempfile::tempdir().unwrap();
        let place = place(root.path());
        written(&place, step);
        run(place.clone(), order("https://127.0.0.1:1"), endpoint()).await.unwrap();
        assert_eq!(journal(&place).unwrap().unwrap().step, step);
    }
}

#[tokio::test]
async fn a_boot_that_nobody_would_start_again_is_not_signalled() {
    let root = tempfile::tempdir().unwrap();
    let place = place(root.path());
    run(place.clone(), order("https://127.0.0.1:1"), endpoint()).await.unwrap();
    let journal = journal(&place).unwrap().unwrap();
    assert_eq!(journal.step, BootDrainStep::Failed);
    assert!(journal.message.contains("no static pod"), "{}", journal.message);
}

#[tokio::test]
async fn a_drain_without_a_process_fails_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let place = place(root.path());
    boot_pod(&place);
    run(place.clone(), order("https://127.0.0.1:1"), endpoint()).await.unwrap();
    assert!(journal(&place).unwrap().unwrap().message.contains("no etcd process"));
    assert!(place.static_pods.join("boot.yaml").exists());
}

#[tokio::test]
async fn a_restarted_agent_that_cannot_ask_leaves_boot_to_the_kubelet() {
    let root = tempfile::tempdir().unwrap();
    let place = place(root.path());
    boot_pod(&place);
    written(&place, BootDrainStep::Signalled);
    // No certificate: nobody can be asked.
    run(place.clone(), order("https://127.0.0.1:1"), endpoint()).await.unwrap();
    assert_eq!(journal(&place).unwrap().unwrap().step, BootDrainStep::StartedAgain);
    assert!(place.static_pods.join("boot.yaml").exists(), "nothing is touched without the others' word");
}
