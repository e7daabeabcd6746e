use super::*;
use std::fs;

const BOOT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: bootstrap-etcd, namespace: kube-system}
spec:
  hostNetwork: true
  containers:
  - name: etcd
    image: registry.example/etcd:v3.6.16
    command: [/usr/local/bin/etcd, --name=boot, "--listen-client-urls=https://192.0.2.10:12379,https://127.0.0.1:12379"]
    args: ["--data-dir", /data/boot]
    volumeMounts: [{name: data, mountPath: /data}, {name: certs, mountPath: /certs}]
  volumes:
  - {name: data, hostPath: {path: /var/lib/boot-etcd}}
  - {name: certs, hostPath: {path: /etc/boot}}
"#;

const API_SERVER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver}
spec:
  containers: [{name: a, command: [kube-apiserver, "--etcd-servers=https://192.0.2.10:12379"]}]
"#;

fn endpoint() -> SocketAddr {
    "192.0.2.10:12379".parse().unwrap()
}

#[test]
fn boots_manifest_is_found_among_others() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a-kube-apiserver.yaml"), API_SERVER).unwrap();
    fs::write(dir.path().join("b-torn.yaml"), "kind: Pod\nspec: [").unwrap();
    fs::write(dir.path().join(".hidden.yaml"), BOOT).unwrap();
    let ours = BOOT.replace("metadata: {", &format!("metadata: {{labels: {{{CLUSTER}: kube-etcd}}, "));
    fs::write(dir.path().join("c-ours.yaml"), ours).unwrap();
    assert_eq!(pod(dir.path(), endpoint()).unwrap(), None);
    fs::write(dir.path().join("d-boot.yaml"), BOOT).unwrap();
    let found = pod(dir.path(), endpoint()).unwrap().unwrap();
    assert_eq!(found.manifest, dir.path().join("d-boot.yaml"));
    assert_eq!(found.data, DataPlace::Node("/var/lib/boot-etcd/boot".into()));
    assert_eq!(found.max_learners, 1);
    fs::write(dir.path().join("d-boot.yaml"), BOOT.replace("--name=boot,", "--name=boot, --max-learners=5,")).unwrap();
    assert_eq!(pod(dir.path(), endpoint()).unwrap().unwrap().max_learners, 5);
    assert_eq!(pod(dir.path(), "192.0.2.10:2379".parse().unwrap()).unwrap(), None);
    assert_eq!(pod(&dir.path().join("missing"), endpoint()).unwrap(), None);
}

#[test]
fn an_api_servers_list_is_read_from_its_arguments() {
    let proc = tempfile::tempdir().unwrap();
    for (pid, line) in
        [("7", "/usr/bin/kube-apiserver\0--etcd-servers=https://192.0.2.10:12379,https://192.0.2.11:2379/\0"), ("8", "etcd\0")]
    {
        fs::create_dir(proc.path().join(pid)).unwrap();
        fs::write(proc.path().join(pid).join("cmdline"), line).unwrap();
    }
    assert_eq!(super::api_servers(proc.path()), [["https://192.0.2.10:12379", "https://192.0.2.11:2379"]]);
}

#[test]
fn a_shells_command_and_environment_are_understood_too() {
    let dir = tempfile::tempdir().unwrap();
    let shell = BOOT
        .replace(
            "[/usr/local/bin/etcd, --name=boot, \"--listen-client-urls=https://192.0.2.10:12379,https://127.0.0.1:12379\"]",
            "[/bin/sh, -c]",
        )
        .replace(
            "args: [\"--data-dir\", /data/boot]",
            "args: [\"exec etcd --listen-client-urls https://$(POD_IP):12379 --data-dir=/elsewhere\"]",
        );
    fs::write(dir.path().join("boot.yaml"), &shell).unwrap();
    assert_eq!(pod(dir.path(), endpoint()).unwrap().unwrap().data, DataPlace::Pod);
    let environment = BOOT.replace("\"--listen-client-urls=https://192.0.2.10:12379,https://127.0.0.1:12379\"", "-v").replace(
        "args: [\"--data-dir\", /data/boot]",
        "env: [{name: ETCD_LISTEN_CLIENT_URLS, value: \"https://0.0.0.0:12379\"}, {name: ETCD_DATA_DIR, value: /data}]",
    );
    fs::write(dir.path().join("boot.yaml"), &environment).unwrap();
    assert_eq!(pod(dir.path(), endpoint()).unwrap().unwrap().data, DataPlace::Node("/var/lib/boot-etcd".into()));
}

#[test]
fn an_address_of_another_machine_does_not_match() {
    assert!(serves("https://192.0.2.10:12379", endpoint()));
    assert!(serves("http://0.0.0.0:12379/", endpoint()));
    assert!(serves("http://[::]:12379", endpoint()));
    assert!(!serves("https://192.0.2.11:12379", endpoint()));
    assert!(!serves("https://127.0.0.1:12379", endpoint()));
    assert!(!serves("https://192.0.2.10:2379", endpoint()));
    assert!(!serves("", endpoint()));
}

/// A process in a made-up /proc.
fn process(proc: &Path, pid: i32, parent: i32, words: &[&str]) {
    let dir = proc.join(pid.to_string());
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("cmdline"), words.iter().map(|word| format!("{word}\0")).collect::<String>()).unwrap();
    fs::write(dir.join("stat"), format!("{pid} (a (b) c) S {parent} 1 1 0 -1")).unwrap();
}

#[test]
fn boots_process_is_found_and_nothing_that_looks_like_it() {
    let proc = tempfile::tempdir().unwrap();
    let proc = proc.path();
    let listen = "--listen-client-urls=https://192.0.2.10:12379";
    process(proc, 1, 0, &["/sbin/init"]);
    process(proc, 10, 1, &["/usr/local/bin/etcd", "--name=boot", listen]);
    process(proc, 11, 1, &["sh", "-c", "etcd", listen]);
    process(proc, 12, 1, &["/usr/local/bin/etcdctl", listen]);
    process(proc, 13, 1, &["kube-apiserver", "--etcd-servers=https://192.0.2.10:12379"]);
    process(proc, 14, 1, &["/usr/local/bin/etcd", "--listen-client-urls=https://192.0.2.10:2379"]);
    process(proc, 20, 1, &["/var/lib/etcd-operator/ns/c/bin/keeper", "keeper", "--dir", "/x"]);
    process(proc, 21, 20, &["/usr/local/bin/etcd", listen]);
    // A kernel thread, and a process that ended while we looked.
    process(proc, 30, 2, &[]);
    fs::create_dir_all(proc.join("31")).unwrap();
    fs::create_dir_all(proc.join("net")).unwrap();
    assert_eq!(processes(proc, endpoint()), [10]);
    assert_eq!(max_learners_of(proc, 10), 1);
    process(proc, 10, 1, &["/usr/local/bin/etcd", listen, "--max-learners", "9"]);
    assert_eq!(max_learners_of(proc, 10), 9);
}
