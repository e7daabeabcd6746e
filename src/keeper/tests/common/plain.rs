//! An etcd without a keeper: the boot member of the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use super::{Bed, etcd_bin, kill, port};

/// Plain etcd without a keeper.
pub struct Plain {
    pub process: Child,
    pub client: String,
    pub peer: String,
    pub data: PathBuf,
}

impl Plain {
    pub fn start(bed: &Bed, name: &str) -> Self {
        Self::start_joining(bed, name, None, &format!("https://127.0.0.1:{}", port()))
    }

    /// `others`: `name=peer` of the members of an existing cluster.
    pub fn start_joining(bed: &Bed, name: &str, others: Option<&str>, peer: &str) -> Self {
        let pki = bed.tmp.path().join(format!("{name}-pki"));
        bed.ca.write(&pki, &["127.0.0.1".parse().unwrap()]);
        let data = bed.tmp.path().join(format!("{name}-data"));
        let client = format!("https://127.0.0.1:{}", port());
        let (cluster, state) = match others {
            Some(others) => (format!("{others},{name}={peer}"), "existing"),
            None => (format!("{name}={peer}"), "new"),
        };
        let process = Command::new(etcd_bin("etcd"))
            .args(plain_flags(name, &data, &pki, &client, peer))
            .arg(format!("--initial-cluster={cluster}"))
            .arg(format!("--initial-cluster-state={state}"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(bed.tmp.path().join(format!("{name}.log"))).unwrap())
            .spawn()
            .unwrap();
        let plain = Self { process, client, peer: peer.to_owned(), data };
        if others.is_none() {
            bed.etcdctl(&plain.client, &["endpoint", "health"]);
        }
        plain
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.process.id(), signal);
    }

    pub fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn plain_flags(name: &str, data: &Path, pki: &Path, client: &str, peer: &str) -> Vec<String> {
    let file = |f: &str| pki.join(f).display().to_string();
    let mut flags = vec![
        format!("--name={name}"),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        "--client-cert-auth".into(),
        "--peer-client-cert-auth".into(),
        format!("--trusted-ca-file={}", file("ca.crt")),
        format!("--cert-file={}", file("server.crt")),
        format!("--key-file={}", file("server.key")),
        format!("--peer-trusted-ca-file={}", file("ca.crt")),
        format!("--peer-cert-file={}", file("peer.crt")),
        format!("--peer-key-file={}", file("peer.key")),
    ];
    // As the keeper does; 3.5 has a constant of one learner.
    let version = Command::new(etcd_bin("etcd")).arg("--version").output().unwrap();
    if !String::from_utf8_lossy(&version.stdout).contains("Version: 3.5.") {
        flags.push("--max-learners=9".into());
    }
    flags
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.end();
    }
}
