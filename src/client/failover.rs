//! The choice among several API servers, below kube's client.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::Client;
use kube::client::Body;
use tokio::sync::{Notify, watch};
use tower::BoxError;

use crate::REQUEST_TIMEOUT;
use crate::clock;
use crate::observer::{self, ApiCall, CallObserver};

type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

/// One API server.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) client: Client,
}

/// Which server is in use. `round` goes up with each move, and when what waits for a server should be cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    index: usize,
    round: u64,
}

pub(crate) struct Shared {
    servers: Vec<Server>,
    choice: watch::Sender<Choice>,
    kick: Arc<Notify>,
    observer: OnceLock<Arc<dyn CallObserver>>,
}

/// Why a request got no answer. The text goes to logs and conditions.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("API server {url} did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout { url: String },
    #[error("API server {url} was given up while the request waited; the next one goes to another server")]
    GivenUp { url: String },
}

impl Shared {
    /// `servers` must not be empty.
    pub(crate) fn new(servers: Vec<Server>) -> Self {
        let (choice, _) = watch::channel(Choice { index: 0, round: 0 });
        Self { servers, choice, kick: Arc::new(Notify::new()), observer: OnceLock::new() }
    }

    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Wakes the probe: somebody got no answer.
    pub(crate) fn kick(&self) -> Arc<Notify> {
        Arc::clone(&self.kick)
    }

    #[allow(
        clippy::indexing_slicing,
        reason = "the index is always taken modulo the number of servers, of which there is one at least"
    )]
    pub(crate) fn current(&self) -> (usize, &Server) {
        let index = self.choice.borrow().index % self.servers.len();
        (index, &self.servers[index])
    }

    pub(crate) fn after(&self, index: usize) -> usize {
        (index + 1) % self.servers.len()
    }

    /// Moves to `to` if `from` is still the server in use: of several callers that saw one server fail, one moves.
    pub(crate) fn move_from(&self, from: usize, to: usize) {
        self.choice.send_if_modified(|choice| {
            if choice.index != from {
                return false;
            }
            *choice = Choice { index: to, round: choice.round + 1 };
            true
        });
    }

    /// Ends all that waits for a server, without moving: the next attempts make new connections.
    pub(crate) fn cut(&self) {
        self.choice.send_modify(|choice| choice.round += 1);
    }

    pub(crate) fn observe(&self, observer: Arc<dyn CallObserver>) {
        let _ = self.observer.set(observer);
    }

    async fn observed_call(&self, request: Request<Body>) -> Result<Response<AnyBody>, BoxError> {
        let Some(observer) = self.observer.get() else { return self.call(request).await };
        let (verb, resource) = observer::kind(&request, is_watch(&request));
        let since = clock::instant();
        let result = self.call(request).await;
        let code = result.as_ref().ok().map(|response| response.status().as_u16());
        observer.called(&ApiCall { verb, resource, code, took: since.elapsed() });
        result
    }

    async fn call(&self, request: Request<Body>) -> Result<Response<AnyBody>, BoxError> {
        let mut request = request;
        let mut left = self.servers.len();
        loop {
            let mut choice = self.choice.subscribe();
            let (index, server) = self.current();
            let spare = copy(&request);
            let is_watch = is_watch(&request);
            let answer = async {
                // A watch's answer begins within this time too; only its body lasts.
                let response = server.client.send(request).await?;
                if is_watch {
                    return Ok(Answer::Watch(response));
                }
                let (parts, body) = response.into_parts();
                Ok::<_, kube::Error>(Answer::Whole(parts, body.collect_bytes().await?))
            };
            let outcome = tokio::select! {
                outcome = clock::within(REQUEST_TIMEOUT, answer) => outcome,
                _ = choice.changed() => return Err(NoAnswer::GivenUp { url: server.url.clone() }.into()),
            };
            match outcome {
                Some(Ok(Answer::Watch(response))) => return Ok(response.map(|body| until_given_up(body, choice))),
                Some(Ok(Answer::Whole(parts, bytes))) => {
                    return Ok(Response::from_parts(parts, Full::new(bytes).map_err(|never| match never {}).boxed_unsync()));
                }
                Some(Err(error)) => {
                    self.kick.notify_one();
                    left -= 1;
                    match spare {
                        // Nothing was sent, so that even a write is safe to send elsewhere.
                        Some(again) if left > 0 && could_not_connect(&error) => {
                            tracing::debug!(server = %server.url, "could not connect to the API server, trying the next");
                            self.move_from(index, self.after(index));
                            request = again;
                        }
                        _ => return Err(error.into()),
                    }
                }
                None => {
                    self.kick.notify_one();
                    return Err(NoAnswer::Timeout { url: server.url.clone() }.into());
                }
            }
        }
    }
}

enum Answer {
    Watch(Response<Body>),
    Whole(http::response::Parts, Bytes),
}

/// The client on top.
pub(crate) fn client(shared: &Arc<Shared>, namespace: &str) -> Client {
    let shared = Arc::clone(shared);
    let service = tower::service_fn(move |request: Request<Body>| {
        let shared = Arc::clone(&shared);
        async move { shared.observed_call(request).await }
    });
    Client::new(service, namespace)
}

/// A watch's body that ends with an error when its server was given up (a dead server sends no FIN).
fn until_given_up(body: Body, mut choice: watch::Receiver<Choice>) -> AnyBody {
    let given_up = async move {
        if choice.changed().await.is_err() {
            // The sender is gone with the last client; the body may still be read to its end.
            std::future::pending::<()>().await;
        }
    };
    let frames = BodyStream::new(body).map(|frame| frame.map_err(BoxError::from)).take_until(given_up);
    StreamBody::new(frames).boxed_unsync()
}

fn is_watch(request: &Request<Body>) -> bool {
    request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1" | "follow=true")))
}

fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

fn could_not_connect(error: &kube::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// An HTTP server that answers each request with `body`; `None` = reads and never answers.
    pub(crate) async fn server(body: Option<&'static str>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0_u8; 4096];
                    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                        let Some(body) = body else { continue };
                        // A watch gets one line and then silence.
                        let head = String::from_utf8_lossy(&buffer[..read]).into_owned();
                        let length = if head.contains("watch=true") { 1_000_000 } else { body.len() };
                        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                        socket.write_all(text.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        of(url)
    }

    fn of(url: String) -> Server {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = kube::Config::new(url.parse().unwrap());
        config.default_retry = false;
        Server { url, client: Client::try_from(config).unwrap() }
    }

    /// An address where nothing listens.
    pub(crate) async fn nobody() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        of(format!("http://{}", listener.local_addr().unwrap()))
    }

    fn get(path: &str) -> Request<Vec<u8>> {
        Request::get(path).body(Vec::new()).unwrap()
    }

    #[tokio::test]
    async fn a_write_that_cannot_connect_goes_to_the_next_server() {
        let shared = Arc::new(Shared::new(vec![nobody().await, nobody().await, server(Some("\"here\"")).await]));
        let client = client(&shared, "default");
        let request = Request::post("/x").body(b"{}".to_vec()).unwrap();
        assert_eq!(client.request::<String>(request).await.unwrap(), "here");
        assert_eq!(shared.current().0, 2);
        // And stays there.
        assert_eq!(client.request::<String>(get("/x")).await.unwrap(), "here");
    }

    #[tokio::test]
    async fn with_no_server_at_all_the_call_ends_with_an_error() {
        let shared = Arc::new(Shared::new(vec![nobody().await, nobody().await]));
        assert!(client(&shared, "default").request_text(get("/x")).await.is_err());
    }

    #[tokio::test]
    async fn what_waits_for_a_server_that_is_given_up_ends() {
        let shared = Arc::new(Shared::new(vec![server(None).await, server(Some("\"here\"")).await]));
        let client = client(&shared, "default");
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.request_text(get("/x")).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        shared.move_from(0, 1);
        assert!(tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().is_err());
        assert_eq!(client.request::<String>(get("/x")).await.unwrap(), "here");
    }

    #[tokio::test]
    async fn a_watch_ends_when_its_server_is_given_up() {
        let shared = Arc::new(Shared::new(vec![server(Some("{}\n")).await]));
        let client = client(&shared, "default");
        let request = Request::get("/x?watch=true").body(Body::empty()).unwrap();
        let mut body = BodyStream::new(client.send(request).await.unwrap().into_body());
        assert!(body.next().await.is_some());
        shared.cut();
        let rest = tokio::time::timeout(Duration::from_secs(5), body.next()).await.unwrap();
        assert!(rest.is_none() || rest.is_some_and(|frame| frame.is_err()));
    }
}
