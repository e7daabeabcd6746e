//! etcd ends a snapshot with the SHA-256 of all that came before it (32 bytes): verified while it streams by.

use sha2::{Digest, Sha256};

const TRAILER: usize = 32;

/// Hashes all but the last 32 bytes of a stream.
#[derive(Default)]
pub struct TrailingDigest {
    hasher: Sha256,
    held: Vec<u8>,
    bytes: u64,
}

impl TrailingDigest {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next chunk.
    pub fn update(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.held.extend_from_slice(chunk);
        let surplus = self.held.len().saturating_sub(TRAILER);
        self.hasher.update(self.held.drain(..surplus).as_slice());
    }

    /// Size with the trailer, and the digest as hex, if the trailer is right.
    ///
    /// # Errors
    /// When the stream was cut short or altered.
    pub fn finish(self) -> Result<(u64, String), String> {
        let digest = self.hasher.finalize();
        if self.held.as_slice() == digest.as_slice() {
            return Ok((self.bytes, hex(&digest)));
        }
        Err(format!("{} bytes arrived and their SHA-256 is not the one at their end: cut short or damaged", self.bytes))
    }
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(body: &[u8]) -> Vec<u8> {
        let mut all = body.to_vec();
        all.extend_from_slice(&Sha256::digest(body));
        all
    }

    #[test]
    fn a_whole_snapshot_passes_in_any_chunking() {
        let all = stream(b"some database");
        for size in 1..all.len() {
            let mut digest = TrailingDigest::new();
            all.chunks(size).for_each(|chunk| digest.update(chunk));
            assert_eq!(digest.finish().unwrap().0, all.len() as u64);
        }
    }

    #[test]
    fn a_cut_or_altered_snapshot_is_refused() {
        let all = stream(b"some database");
        for cut in 0..all.len() {
            let mut digest = TrailingDigest::new();
            digest.update(&all[..cut]);
            assert!(digest.finish().is_err(), "cut at {cut}");
        }
        let mut altered = all;
        altered[3] ^= 1;
        let mut digest = TrailingDigest::new();
        digest.update(&altered);
        assert!(digest.finish().is_err());
    }
}
