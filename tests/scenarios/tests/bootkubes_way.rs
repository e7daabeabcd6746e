//! bootkube's pivot step: v1beta2's fields as plain JSON over HTTP and nothing of ours, `status.phase` polled, then etcd's member list.

use std::time::Duration;

use etcd_operator_scenarios::{Stage, is_sampled};
use serde_json::Value;

#[test]
fn bootkubes_own_request_makes_the_pivot() {
    if !is_sampled("bootkubes_own_request_makes_the_pivot") {
        return;
    }
    let stage = Stage::with_boot_on("cp1");
    let fixture = stage.bed.layout.checkout.join("tests/fixtures/bootkube.json");
    let mut object: Value = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
    object["spec"]["selfHosted"]["bootMemberClientEndpoint"] = stage.boot_endpoint().into();
    let file = stage.bed.layout.path("bootkube.json");
    std::fs::write(&file, object.to_string()).unwrap();
    let path = "/apis/etcd.database.coreos.com/v1beta2/namespaces/kube-system/etcdclusters";
    stage.bed.kubectl(&["create", "--raw", path, "-f", &file.to_string_lossy()]).unwrap();

    let phase = || stage.cluster()["status"]["phase"].as_str().unwrap_or_default().to_owned();
    stage.until("status.phase is Running", Duration::from_secs(300), || {
        assert_ne!(phase(), "Failed", "{}", stage.explain());
        phase() == "Running"
    });
    stage.until("boot is out of etcd's member list", Duration::from_secs(300), || stage.members() == ["cp1-1"]);
    let conditions = stage.cluster()["status"]["conditions"].to_string();
    assert!(conditions.contains("FieldIgnored") && conditions.contains("spec.TLS.static"), "{conditions}");
}
