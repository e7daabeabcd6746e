//! The pod's probes, answered from what the keeper knows, by a thread of its own that touches no disk, no TLS and no etcd.
//!
//! Liveness means that the keeper lives: an etcd that is slow, defragmenting or waiting must not be killed for it. Readiness is etcd's
//! own, as of the last look.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest a client of the probe may take to send its request, or to read the answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// Pause between attempts to listen, if the port is taken.
const AGAIN: Duration = Duration::from_secs(1);

/// What the probes answer from.
#[derive(Debug, Default)]
pub struct Health {
    ready: AtomicBool,
    text: Mutex<String>,
}

/// Whether etcd said that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Its `/readyz` answered 200.
    Ready,
    /// It did not, or etcd does not run.
    NotReady,
}

impl Health {
    /// Notes etcd's readiness. Returns whether it changed.
    pub fn set_readiness(&self, readiness: Readiness) -> bool {
        let ready = readiness == Readiness::Ready;
        self.ready.swap(ready, Ordering::Relaxed) != ready
    }
    /// etcd's readiness as of the last look.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if self.ready.load(Ordering::Relaxed) { Readiness::Ready } else { Readiness::NotReady }
    }
    /// Notes what the keeper does, for whoever reads the probe's answer.
    pub fn set_text(&self, text: String) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Listens for probes.
///
/// # Errors
/// When the port is taken.
pub fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// Starts the thread. A port that is taken is reported, and tried again for ever: it must not keep etcd from running.
///
/// # Errors
/// When no thread can be made.
pub fn serve(port: u16, listening: Option<TcpListener>, health: Arc<Health>) -> std::io::Result<()> {
    std::thread::Builder::new().name("probe".into()).spawn(move || {
        let mut said = false;
        let mut listening = listening;
        let listener = loop {
            match listening.take().map_or_else(|| listen(port), Ok) {
                Ok(listener) => break listener,
                Err(error) if !said => {
                    tracing::error!(port, %error, "cannot listen for probes, trying again: is the port taken?");
                    said = true;
                }
                Err(_) => {}
            }
            std::thread::sleep(AGAIN);
        };
        for stream in listener.incoming().flatten() {
            // A client that breaks off is its own affair.
            let _ = answer(stream, &health);
        }
    })?;
    Ok(())
}

fn answer(mut stream: TcpStream, health: &Health) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 1024];
    let mut got = 0;
    // The first line is enough; the rest is read so that closing does not reset the connection.
    while let Some(room) = buffer.get_mut(got..).filter(|r| !r.is_empty()) {
        match stream.read(room)? {
            0 => break,
            n => got += n,
        }
        if buffer.get(..got).is_some_and(|read| read.windows(4).any(|w| w == b"\r\n\r\n")) {
            break;
        }
    }
    let request = String::from_utf8_lossy(buffer.get(..got).unwrap_or_default());
    let mut words = request.split_ascii_whitespace();
    let path = match (words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some(path)) => path.split('?').next().unwrap_or_default(),
        _ => "",
    };
    let (status, body) = match (path, health.readiness()) {
        ("/livez", _) => ("200 OK", "ok".to_owned()),
        ("/readyz", Readiness::Ready) => ("200 OK", "ok".to_owned()),
        ("/readyz", Readiness::NotReady) => ("503 Service Unavailable", health.text()),
        _ => ("404 Not Found", "there are /livez and /readyz".to_owned()),
    };
    let length = body.len() + 1;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}\n"
    )?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn get(port: u16, path: &str) -> String {
        let mut stream = loop {
            if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                break stream;
            }
            std::thread::yield_now();
        };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn liveness_is_the_keepers_and_readiness_is_etcds() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let health = Arc::new(Health::default());
        health.set_text("Waiting NotAddedYet: said so".into());
        serve(port, None, Arc::clone(&health)).unwrap();
        assert!(get(port, "/livez").starts_with("HTTP/1.1 200 "));
        let waiting = get(port, "/readyz");
        assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.contains("NotAddedYet"), "{waiting}");
        assert!(health.set_readiness(Readiness::Ready));
        assert!(!health.set_readiness(Readiness::Ready));
        assert!(get(port, "/readyz?verbose").starts_with("HTTP/1.1 200 "));
        assert!(get(port, "/metrics").starts_with("HTTP/1.1 404 "));
    }
}
