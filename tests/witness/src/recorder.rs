//! Where the collecting tasks put what they see.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::{Clock, Micros};
use crate::history::History;

/// The history that a run is writing, shared by its tasks.
#[derive(Clone)]
pub struct Recorder {
    clock: Clock,
    history: Arc<Mutex<History>>,
}

impl Recorder {
    /// An empty history.
    pub fn new(clock: Clock) -> Self {
        let history = History { started_unix_ms: clock.started_unix_ms(), ..History::default() };
        Recorder { clock, history: Arc::new(Mutex::new(history)) }
    }

    /// The run's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Now.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Reads or changes the history. Never held across an await.
    pub fn with<T>(&self, act: impl FnOnce(&mut History) -> T) -> T {
        act(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
