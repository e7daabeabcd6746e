//! etcd's own readiness, over plain HTTP on loopback.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::clock::sleep;
use crate::probe::{Health, Readiness};

/// How long etcd may take to answer.
const LIMIT: Duration = Duration::from_secs(1);
/// While etcd is not ready the next look comes sooner: a start is a matter of a second.
const SOON: Duration = Duration::from_millis(100);

/// Looks again and again until it is dropped; readiness is then `NotReady`.
pub struct Watch {
    task: AbortHandle,
    health: Arc<Health>,
}

impl Watch {
    /// Starts looking.
    #[must_use]
    pub fn start(port: u16, every: Duration, health: Arc<Health>) -> Self {
        let shared = Arc::clone(&health);
        let task = tokio::spawn(async move {
            loop {
                let readiness = look(port).await;
                if shared.set_readiness(readiness) {
                    tracing::info!(?readiness, "etcd's readiness changed");
                }
                sleep(match readiness {
                    Readiness::Ready => every,
                    Readiness::NotReady => every.min(SOON),
                })
                .await;
            }
        });
        Self { task: task.abort_handle(), health }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // One thread: after this the task is never polled again, so it cannot set it back.
        self.task.abort();
        self.health.set_readiness(Readiness::NotReady);
    }
}

/// Whether the etcd behind this port is ready now.
pub async fn is_ready(port: u16) -> bool {
    look(port).await == Readiness::Ready
}

async fn look(port: u16) -> Readiness {
    match tokio::time::timeout(LIMIT, status_line(port)).await {
        Ok(Ok(line)) if line.starts_with(b"HTTP/1.1 200") => Readiness::Ready,
        Ok(Ok(_) | Err(_)) | Err(_) => Readiness::NotReady,
    }
}

async fn status_line(port: u16) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    Ok(answer)
}
