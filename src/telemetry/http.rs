//! `/metrics`, `/livez` and `/readyz`, plain HTTP: nothing in them is secret, and whoever scrapes them needs no certificate of etcd's.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::metrics::Metrics;
use crate::clock;

/// Replicas that share a node share its network, and take the next port.
const PORTS: u16 = 4;
/// How often it is looked whether this process should be started anew.
const WATCHDOG: Duration = Duration::from_secs(30);

/// Serves until it is dropped. An address that is taken by others keeps nothing else from working.
pub async fn serve(address: SocketAddr, metrics: Metrics) {
    for port in address.port()..address.port().saturating_add(PORTS) {
        let address = SocketAddr::new(address.ip(), port);
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "metrics are served");
                if let Err(error) = axum::serve(listener, routes(metrics)).await {
                    tracing::error!(%error, "metrics are not served any more");
                }
                return;
            }
            Err(error) => tracing::info!(%address, %error, "metrics cannot be served there"),
        }
    }
    tracing::warn!(%address, "no port is free for metrics; choose another one with --metrics-address");
}

fn routes(metrics: Metrics) -> Router {
    let (live, ready) = (metrics.contact.clone(), metrics.contact.clone());
    Router::new()
        .route("/metrics", get(move || std::future::ready(text(&metrics))))
        .route("/livez", get(move || std::future::ready(verdict(live.live()))))
        .route("/readyz", get(move || std::future::ready(verdict(ready.ready()))))
}

fn text(metrics: &Metrics) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn verdict(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// Ends when this process should be started anew; the kubelet does that. Not by a probe of the kubelet's: replicas that share a node's network
/// would be asked for each other.
pub async fn watchdog(metrics: Metrics) -> String {
    loop {
        clock::sleep(WATCHDOG).await;
        if let Err(why) = metrics.contact.live() {
            return why;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(port: u16, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_replica_that_shares_the_node_takes_the_next_port() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let first = taken.local_addr().unwrap();
        let server = tokio::spawn(serve(first, Metrics::default()));
        let port = loop {
            if let Some(port) =
                (first.port() + 1..first.port() + PORTS).find(|p| std::net::TcpStream::connect(("127.0.0.1", *p)).is_ok())
            {
                break port;
            }
            tokio::task::yield_now().await;
        };
        let metrics = ask(port, "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("openmetrics-text"), "{metrics}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");
        assert!(ask(port, "/livez").await.contains("ok"));
        let ready = ask(port, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("the API has not answered yet"), "{ready}");
        server.abort();
    }
}
