//! A member's hash by the way in which members ask each other: also a learner answers there, which tells clients nothing but its status.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{HashKv, Tls};
use crate::error::{ErrorKind, EtcdError};
use crate::ids::ClusterId;

/// Hashing takes about 0.9 s per GB (traps, "Hashes").
const LIMIT: Duration = Duration::from_secs(60);
/// Longest answer: it is a small JSON object, or a line of text.
const ANSWER_BYTES: usize = 16 * 1024;

#[derive(serde::Deserialize)]
struct Answer {
    #[serde(default)]
    hash: u32,
    #[serde(default)]
    compact_revision: i64,
    #[serde(default)]
    hash_revision: i64,
}

/// The hash of the store of the member at `peer_url` (`https://ip:port`) at a revision that it has applied. Asked with a certificate of the
/// peers' CA (etcd: `GET /members/hashkv`, `server/etcdserver/corrupt.go`).
///
/// # Errors
/// When it does not answer within a minute, with another status, or for another cluster.
pub async fn hash_kv(peer_url: &str, tls: &Tls, cluster: ClusterId, revision: i64) -> Result<HashKv, EtcdError> {
    let failed = |message: String| EtcdError::Call {
        endpoint: peer_url.to_owned(),
        call: "HashKV by its peer URL",
        kind: ErrorKind::Other,
        message,
    };
    let answer = tokio::time::timeout(LIMIT, ask(peer_url, tls, cluster, revision));
    let answer = answer.await.map_err(|_| failed(format!("no answer within {} s", LIMIT.as_secs())))?.map_err(failed)?;
    Ok(HashKv { hash: answer.hash, revision: answer.hash_revision, compact_revision: answer.compact_revision })
}

async fn ask(peer_url: &str, tls: &Tls, cluster: ClusterId, revision: i64) -> Result<Answer, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let address: SocketAddr =
        peer_url.strip_prefix("https://").and_then(|a| a.parse().ok()).ok_or("the peer URL is not https://<IP>:<port>")?;
    let stream = TcpStream::connect(address).await.map_err(|e| text(&e))?;
    let connector = TlsConnector::from(Arc::new(config(tls)?));
    let stream = connector.connect(ServerName::IpAddress(address.ip().into()), stream).await.map_err(|e| text(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let request = hyper::Request::get("/members/hashkv")
        .header("Host", address.to_string())
        // It refuses a request for another cluster. In etcd's spelling: hex without leading zeros.
        .header("X-Etcd-Cluster-ID", format!("{:x}", cluster.0))
        .body(Full::new(Bytes::from(format!("{{\"revision\":{revision}}}"))))
        .map_err(|e| text(&e))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| text(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await.map_err(|e| text(&e))?.to_bytes();
        if !status.is_success() {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body).trim()));
        }
        serde_json::from_slice(&body).map_err(|e| text(&e))
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(format!("the connection ended early: {ended:?}")),
    }
}

fn config(tls: &Tls) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&tls.ca) {
        roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&tls.cert).collect();
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(|e| e.to_string())?;
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(roots)
                .with_client_auth_cert(chain.map_err(|_| rustls::Error::NoCertificatesPresented)?, key)
        })
        .map_err(|e| e.to_string())
}
