//! The journal of acknowledged writes, outside the cluster, on disk before a write counts as acknowledged.
//!
//! One line per ack: `value object rv`. Acks that arrive while a flush runs share the next one.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::clock::Micros;
use crate::history::Outcome;
use crate::options::WitnessError;
use crate::recorder::Recorder;

/// An acknowledgement on its way to the disk.
pub struct Ack {
    /// Index of the write, which is its value.
    pub write: usize,
    /// Resource and name of the object.
    pub object: String,
    /// When the answer arrived.
    pub at: Micros,
    /// Its resource version.
    pub rv: u64,
}

/// The journal's thread. It ends when every sender is gone.
pub struct Journal {
    thread: JoinHandle<std::io::Result<()>>,
}

impl Journal {
    /// Creates the file and starts the thread.
    pub fn create(path: &Path, recorder: Recorder) -> Result<(Self, mpsc::Sender<Ack>), WitnessError> {
        let file = File::create(path).map_err(|source| WitnessError::File { path: path.into(), source })?;
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || run(file, &receiver, &recorder));
        Ok((Journal { thread }, sender))
    }

    /// Waits for the last flush.
    pub fn finish(self, path: &Path) -> Result<(), WitnessError> {
        let result = self.thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the journal's thread died")));
        result.map_err(|source| WitnessError::File { path: path.into(), source })
    }
}

fn run(mut file: File, acks: &mpsc::Receiver<Ack>, recorder: &Recorder) -> std::io::Result<()> {
    while let Ok(first) = acks.recv() {
        let mut batch = vec![first];
        batch.extend(acks.try_iter());
        let lines: String = batch.iter().map(|ack| format!("{} {} {}\n", ack.write, ack.object, ack.rv)).collect();
        file.write_all(lines.as_bytes())?;
        file.sync_data()?;
        recorder.with(|history| {
            for ack in batch {
                if let Some(write) = history.writes.get_mut(ack.write) {
                    write.outcome = Outcome::Acked { at: ack.at, rv: ack.rv };
                }
            }
        });
    }
    Ok(())
}
