//! A real server that speaks S3 (versitygw over a directory), with TLS and a CA of its own, for the tests of backups.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test ends by it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Access key ID.
pub const ID: &str = "admin";
/// Secret access key.
pub const SECRET: &str = "open-sesame";
/// The bucket that is there.
pub const BUCKET: &str = "bucket";

/// The server; it ends when this is dropped.
pub struct Server {
    dir: tempfile::TempDir,
    address: String,
    /// The CA of its certificate, PEM.
    pub ca: String,
    process: Option<Child>,
}

impl Server {
    /// At an address of this machine, on a free port. Needs `S3_BIN`.
    #[must_use]
    pub fn up(ip: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![ip.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.path().join("tls.crt"), leaf.pem()).unwrap();
        std::fs::write(dir.path().join("tls.key"), key.serialize_pem()).unwrap();
        for sub in [&format!("data/{BUCKET}"), "meta"] {
            std::fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let port = std::net::TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port();
        let mut server = Self { dir, address: format!("{ip}:{port}"), ca: issuer.pem(), process: None };
        server.start();
        server
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A file or folder of its own: `data/<bucket>/…`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it again.
    pub fn start(&mut self) {
        let bin = std::env::var("S3_BIN").expect("S3_BIN: the folder that tests/bed/go/build.sh s3 prints");
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        // It ends with the thread that began it, whatever ends that.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(Path::new(&bin).join("versitygw"))
            .args(["--access", ID, "--secret", SECRET, "--region", "us-east-1", "--quiet", "--port", &self.address])
            .arg("--cert")
            .arg(self.path("tls.crt"))
            .arg("--key")
            .arg(self.path("tls.key"))
            .args(["posix", "--sidecar"])
            .arg(self.path("meta"))
            .arg(self.path("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let began = Instant::now();
        while std::net::TcpStream::connect(&self.address).is_err() {
            let log = || std::fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(30), "the S3 server does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills it.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of the S3 server's log\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }
}
