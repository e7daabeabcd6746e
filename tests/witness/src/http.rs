//! The witness's own HTTP client: TLS connections to the API server, and requests that are sent once.
//!
//! No retry, no redirect, no hidden reconnect inside a request: what the API server does to a request is what is
//! recorded. A connection that is known to be closed is opened anew *before* a request, never for the same one.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clock::within;
use crate::kubeconfig::Access;

/// Longest that opening a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// A connection whose peer does not answer a ping for this long is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Why a request has no good answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpError {
    /// No connection.
    #[error("connect: {0}")]
    Connect(String),
    /// The connection broke, or the answer could not be read.
    #[error("transport: {0}")]
    Transport(String),
    /// The server answered with an error.
    #[error("{code}: {message}")]
    Status {
        /// HTTP status.
        code: u16,
        /// The message of the `Status` object, or the start of the body.
        message: String,
    },
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl HttpError {
    /// Whether trying again is useless: one of the two does not trust the other.
    pub fn is_distrust(&self) -> bool {
        matches!(self, HttpError::Connect(reason) if reason.contains("certificate"))
    }

    /// Whether the server said that the thing, or the type, does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, HttpError::Status { code: 404, .. })
    }
}

/// The API server and how to talk to it.
pub struct Api {
    authority: String,
    address: String,
    name: ServerName<'static>,
    h2: TlsConnector,
    h1: TlsConnector,
    token: Option<String>,
}

impl Api {
    /// Prepares TLS; opens no connection.
    pub fn new(access: &Access) -> Result<Self, String> {
        let authority = access
            .server
            .strip_prefix("https://")
            .ok_or("the server's URL must begin with https://")?
            .trim_end_matches('/')
            .to_string();
        let address = if authority.rsplit(']').next().is_some_and(|end| end.contains(':')) {
            authority.clone()
        } else {
            format!("{authority}:443")
        };
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host).trim_matches(['[', ']']).to_string();
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let h2 = TlsConnector::from(Arc::new(tls(access, b"h2")?));
        let h1 = TlsConnector::from(Arc::new(tls(access, b"http/1.1")?));
        Ok(Api { authority, address, name, h2, h1, token: access.token.clone() })
    }

    /// Host and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    async fn open(&self, connector: &TlsConnector) -> Result<TokioIo<TlsStream<TcpStream>>, HttpError> {
        let opening = async {
            let tcp = TcpStream::connect(&self.address).await?;
            tcp.set_nodelay(true)?;
            connector.connect(self.name.clone(), tcp).await
        };
        match within(CONNECT, opening).await {
            Some(Ok(stream)) => Ok(TokioIo::new(stream)),
            Some(Err(error)) => Err(HttpError::Connect(error.to_string())),
            None => Err(HttpError::Connect(format!("not open after {CONNECT:?}"))),
        }
    }

    async fn open_h2(&self) -> Result<http2::SendRequest<Full<Bytes>>, HttpError> {
        let io = self.open(&self.h2).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let (sender, connection) = builder.handshake(io).await.map_err(|error| HttpError::Connect(chain(&error)))?;
        // The end of the connection shows in its requests.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// Opens a stream of its own, for a watch, and returns the response as soon as its head is there.
    pub async fn stream(&self, path: &str) -> Result<Response<Incoming>, HttpError> {
        let io = self.open(&self.h1).await?;
        let (mut sender, connection) = http1::handshake(io).await.map_err(|error| HttpError::Connect(chain(&error)))?;
        tokio::spawn(async move { drop(connection.await) });
        let request = self.request(Method::GET, path.to_string(), None)?;
        let response = match within(KEEP_ALIVE * 2, sender.send_request(request)).await {
            Some(answer) => answer.map_err(|error| HttpError::Transport(chain(&error)))?,
            None => return Err(HttpError::Timeout(KEEP_ALIVE * 2)),
        };
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
    }

    fn request(
        &self,
        method: Method,
        uri: String,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", &self.authority)
            .header("user-agent", "etcd-witness")
            .header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Some((content_type, body)) => {
                request = request.header("content-type", content_type);
                Full::from(body)
            }
            None => Full::default(),
        };
        request.body(body).map_err(|error| HttpError::Transport(error.to_string()))
    }
}

/// A handful of HTTP/2 connections that requests go over in turn.
pub struct Pool {
    api: Arc<Api>,
    slots: Vec<Mutex<Option<http2::SendRequest<Full<Bytes>>>>>,
    next: std::sync::atomic::AtomicUsize,
}

impl Pool {
    /// A pool; its connections open when first used.
    pub fn new(api: Arc<Api>, connections: usize) -> Self {
        Pool { api, slots: (0..connections.max(1)).map(|_| Mutex::new(None)).collect(), next: Default::default() }
    }

    /// Sends one request, once, and reads the answer.
    pub async fn call(&self, method: Method, path: &str, body: Option<(&'static str, Vec<u8>)>) -> Result<Bytes, HttpError> {
        let mut sender = self.sender().await?;
        sender.ready().await.map_err(|error| HttpError::Transport(chain(&error)))?;
        let mut request = self.api.request(method, format!("https://{}{path}", self.api.authority), body)?;
        // HTTP/2 carries the host in `:authority`.
        request.headers_mut().remove("host");
        let response = sender.send_request(request).await.map_err(|error| HttpError::Transport(chain(&error)))?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let body = response.into_body().collect().await.map_err(|error| HttpError::Transport(chain(&error)))?;
        Ok(body.to_bytes())
    }

    /// The same, with a time limit.
    pub async fn call_within(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<Bytes, HttpError> {
        within(limit, self.call(method, path, body)).await.unwrap_or(Err(HttpError::Timeout(limit)))
    }

    async fn sender(&self) -> Result<http2::SendRequest<Full<Bytes>>, HttpError> {
        let turn = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % self.slots.len();
        let Some(slot) = self.slots.get(turn) else {
            return Err(HttpError::Connect("the pool has no connection".into()));
        };
        let mut slot = slot.lock().await;
        if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let sender = self.api.open_h2().await?;
        *slot = Some(sender.clone());
        Ok(sender)
    }
}

fn tls(access: &Access, protocol: &[u8]) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&access.ca) {
        roots
            .add(certificate.map_err(|error| format!("certificate authority: {error}"))?)
            .map_err(|error| format!("certificate authority: {error}"))?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &access.identity {
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| format!("client certificate: {error}"))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("client key: {error}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| format!("client certificate: {error}"))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

async fn refused(response: Response<Incoming>) -> HttpError {
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let message = serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|status| status.get("message")?.as_str().map(str::to_string))
        .unwrap_or_else(|| String::from_utf8_lossy(&body).chars().take(200).collect());
    HttpError::Status { code, message }
}

/// An error with its causes: hyper's own text hides them.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Wrappers often repeat what they wrap.
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    // rustls ends some texts with the address of its manual.
    text.split(": https://docs.rs").next().unwrap_or_default().to_string()
}
