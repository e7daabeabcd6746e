//! The stream of a backup, and its proof.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use async_compression::tokio::bufread::ZstdDecoder;
use async_compression::zstd::DParameter;
use etcd_operator_etcd::snapshot::{TrailingDigest, hex};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, ReadBuf};

use crate::error::{Error, of_io};
use crate::room::Room;

/// How often the room is looked at, bytes.
const LOOK_EVERY: u64 = 16 << 20;
/// A frame that wants more memory than 2²⁴ bytes is none of ours.
const WINDOW_LOG: u32 = 24;
const BUFFER: usize = 256 << 10;
/// What a zstd frame begins with.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How far a backup is, for whoever waits for it.
#[derive(Debug, Default)]
pub struct Progress {
    of: AtomicU64,
    done: AtomicU64,
    rounds: AtomicU64,
}

impl Progress {
    /// So many bytes are to come.
    pub(crate) fn begin(&self, of: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.of.store(of, Ordering::Relaxed);
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// Which time the data passes (1: from etcd, 2: to be proven), bytes so far, and of how many.
    #[must_use]
    pub fn now(&self) -> (u64, u64, u64) {
        (self.rounds.load(Ordering::Relaxed), self.done.load(Ordering::Relaxed), self.of.load(Ordering::Relaxed))
    }
}

/// Counts what passes.
pub(crate) struct Counted<'p, W> {
    pub(crate) inner: W,
    pub(crate) progress: &'p Progress,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Counted<'_, W> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.inner).poll_write(context, data))?;
        self.progress.done.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Hashes and counts what passes, and stops where there is no room.
pub(crate) struct Meter<'r, W> {
    pub(crate) inner: W,
    room: &'r dyn Room,
    hasher: Sha256,
    bytes: u64,
    looked: u64,
    /// Why nothing more was written: the stream only knows that it could not.
    pub(crate) stopped: Option<Error>,
    /// Whether the writer has begun to finish: from there on it takes back by itself what it cannot finish, and must not be aborted.
    pub(crate) is_finishing: bool,
}

impl<'r, W> Meter<'r, W> {
    pub(crate) fn new(inner: W, room: &'r dyn Room) -> Self {
        Self { inner, room, hasher: Sha256::new(), bytes: 0, looked: 0, stopped: None, is_finishing: false }
    }

    /// Bytes and SHA-256 of what was written.
    pub(crate) fn sum(&self) -> (u64, String) {
        (self.bytes, hex(&self.hasher.clone().finalize()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Meter<'_, W> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        if self.bytes >= self.looked + LOOK_EVERY {
            self.looked = self.bytes;
            if let Err(why) = self.room.check(0) {
                self.stopped = Some(Error::Room(why.clone()));
                return Poll::Ready(Err(std::io::Error::new(std::io::ErrorKind::StorageFull, why)));
            }
        }
        let written = match std::task::ready!(Pin::new(&mut self.inner).poll_write(context, data)) {
            Ok(written) => written,
            Err(error) => {
                self.stopped = Some(of_io("cannot write the backup", &error));
                return Poll::Ready(Err(error));
            }
        };
        if let Some(part) = data.get(..written) {
            self.hasher.update(part);
        }
        self.bytes += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.is_finishing = true;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Hashes and counts what is read.
struct Tee<R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R: AsyncRead + Unpin> AsyncRead for Tee<R> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = into.filled().len();
        std::task::ready!(Pin::new(&mut self.inner).poll_read(context, into))?;
        let new = into.filled().get(before..).unwrap_or_default();
        self.hasher.update(new);
        self.bytes += new.len() as u64;
        Poll::Ready(Ok(()))
    }
}

/// What was read is a whole snapshot, as etcd wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Bytes as stored.
    pub bytes: u64,
    /// SHA-256 as stored, hex.
    pub sha256: String,
    /// Bytes of etcd's snapshot, with its digest.
    pub db_bytes: u64,
    /// SHA-256 of the database, hex.
    pub db_sha256: String,
}

/// Whether what begins so is compressed; a snapshot itself begins with a page of bbolt.
fn compressed(beginning: &[u8]) -> bool {
    beginning.starts_with(&MAGIC)
}

/// A stored snapshot that is read, decompressed.
type Read<'a> = Box<dyn AsyncRead + Send + Unpin + 'a>;

/// Reads a snapshot, compressed or not.
///
/// # Errors
/// When its beginning cannot be read.
async fn open<'a>(stored: impl AsyncRead + Send + Unpin + 'a) -> std::io::Result<Read<'a>> {
    let mut reader = BufReader::with_capacity(BUFFER, stored);
    let beginning = tokio::io::AsyncBufReadExt::fill_buf(&mut reader).await?;
    Ok(if compressed(beginning) {
        let mut decoder = ZstdDecoder::with_params(reader, &[DParameter::window_log_max(WINDOW_LOG)]);
        // Else what follows a frame would not be read, nor found out.
        decoder.multiple_members(true);
        Box::new(decoder)
    } else {
        Box::new(reader)
    })
}

/// Reads a stored snapshot to its end, hands what etcd wrote to `out`, and proves it by the digest at its end.
///
/// # Errors
/// `Damaged` when it is cut short or altered; what was written to `out` is then worthless. Else when it cannot be read or written.
pub async fn prove(stored: impl AsyncRead + Send + Unpin, out: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<Proven, Error> {
    let cannot_write = |error| Error::Room(format!("cannot write what was read: {error}"));
    let mut tee = Tee { inner: stored, hasher: Sha256::new(), bytes: 0 };
    let mut digest = TrailingDigest::new();
    let mut reader = open(&mut tee).await.map_err(broken)?;
    let mut buffer = vec![0_u8; BUFFER];
    loop {
        let read = reader.read(&mut buffer).await.map_err(broken)?;
        let part = buffer.get(..read).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        digest.update(part);
        out.write_all(part).await.map_err(cannot_write)?;
    }
    drop(reader);
    out.flush().await.map_err(cannot_write)?;
    let (db_bytes, db_sha256) =
        digest.finish().map_err(|why| Error::Damaged(format!("it is no whole snapshot of etcd: {why}")))?;
    Ok(Proven { bytes: tee.bytes, sha256: hex(&tee.hasher.finalize()), db_bytes, db_sha256 })
}

/// A stream that breaks off is damaged, unless the store itself failed.
fn broken(error: std::io::Error) -> Error {
    if error.get_ref().is_some_and(|inner| inner.is::<object_store::Error>()) {
        return of_io("reading broke off", &error);
    }
    Error::Damaged(format!("it cannot be read to its end: {error}"))
}
