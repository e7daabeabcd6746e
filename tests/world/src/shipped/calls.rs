//! Every call that a process under test makes to the outside passes here, and may be its last one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where in a call something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// The process dies before the call.
    Before,
    /// The call is carried out, then the process dies.
    After,
    /// The call is carried out, its answer is lost, the process goes on.
    AnswerLost,
}

impl When {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::After, Self::AnswerLost];
}

/// The calls of one life of one process.
#[derive(Clone)]
pub(crate) struct Calls(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// The faults up to its last look at the membership: a fault after that is not its doing.
    faults_seen: AtomicU64,
}

#[derive(Default)]
struct State {
    /// What it called, in order; those that only look are marked by a leading `?`.
    log: Vec<String>,
    /// Which call goes wrong, from 0, and how.
    wrong: Option<(usize, When)>,
    is_dead: bool,
}

/// The answer of a call did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

impl Calls {
    /// A new life, in which one call goes wrong.
    pub(crate) fn new(wrong: Option<(usize, When)>) -> Self {
        Self(Arc::new(Shared { state: Mutex::new(State { wrong, ..State::default() }), faults_seen: AtomicU64::new(0) }))
    }

    /// Makes a call. Whoever is dead never returns from it.
    pub(crate) async fn make<T>(&self, name: impl FnOnce() -> String, call: impl Future<Output = T>) -> Result<T, Lost> {
        let Some(wrong) = self.enter(name()) else { return std::future::pending().await };
        let answer = call.await;
        match wrong {
            Some(When::AnswerLost) => Err(Lost),
            Some(When::After) => {
                self.kill();
                std::future::pending().await
            }
            Some(When::Before) | None => Ok(answer),
        }
    }

    /// A call that is over at once. `None` = the process died before it.
    pub(crate) fn at_once<T>(&self, name: String, call: impl FnOnce() -> T) -> Option<T> {
        let wrong = self.enter(name)?;
        let answer = call();
        if wrong == Some(When::After) {
            self.kill();
        }
        Some(answer)
    }

    /// `None` = dead; else what goes wrong in this call.
    fn enter(&self, name: String) -> Option<Option<When>> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_dead {
            return None;
        }
        let number = state.log.len();
        state.log.push(name);
        let wrong = state.wrong.filter(|(at, _)| *at == number).map(|(_, when)| when);
        drop(state);
        if wrong == Some(When::Before) {
            self.kill();
            return None;
        }
        Some(wrong)
    }

    /// The process dies, whatever it was doing.
    pub(crate) fn kill(&self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).is_dead = true;
    }

    /// From here on nothing goes wrong any more.
    pub(crate) fn spare(&self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).wrong = None;
    }

    /// Whether it died.
    pub(crate) fn is_dead(&self) -> bool {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).is_dead
    }

    /// It looked at the membership.
    pub(crate) fn looked(&self, faults: u64) {
        self.0.faults_seen.store(faults, Ordering::Relaxed);
    }

    /// The faults up to its last look.
    pub(crate) fn faults_seen(&self) -> u64 {
        self.0.faults_seen.load(Ordering::Relaxed)
    }

    /// What it called.
    pub(crate) fn log(&self) -> Vec<String> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).log.clone()
    }
}
