//! Work that outlasts a pass (a snapshot, a drain): started once per ID, tried again after a failure, its outcome read by later passes.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_operator_client::clock::{self, Instant};
use tokio::sync::Notify;

use crate::host::Agent;

/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);

/// At most one piece of work at a time, for the ID asked for last.
pub(crate) struct Job<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    id: Option<String>,
    running: bool,
    outcome: Option<Result<T, String>>,
    not_before: Option<Instant>,
}

impl<T> Default for Job<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { id: None, running: false, outcome: None, not_before: None })))
    }
}

impl<T: Clone + Send + 'static> Job<T> {
    /// Makes sure that the work for `id` is done, running, or will be tried again; `done` is told when its outcome changes. Work for an
    /// earlier ID is let finish first.
    pub(crate) fn want<F>(&self, agent: &Agent, id: &str, done: &Arc<Notify>, work: impl FnOnce() -> F)
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
    {
        let mut state = lock(&self.0);
        if state.running {
            return;
        }
        if state.id.as_deref() == Some(id) {
            let finished = matches!(state.outcome, Some(Ok(_)));
            if finished || state.not_before.is_some_and(|time| clock::instant() < time) {
                return;
            }
        } else {
            *state = State { id: Some(id.to_owned()), running: false, outcome: None, not_before: None };
        }
        state.running = true;
        drop(state);
        let (shared, done, work) = (Arc::clone(&self.0), Arc::clone(done), work());
        agent.spawn(async move {
            let outcome = work.await;
            let mut state = lock(&shared);
            state.running = false;
            state.not_before = outcome.is_err().then(|| clock::instant() + AGAIN);
            state.outcome = Some(outcome);
            drop(state);
            done.notify_one();
        });
    }

    /// The last outcome of the work for `id`.
    pub(crate) fn outcome(&self, id: &str) -> Option<Result<T, String>> {
        let state = lock(&self.0);
        if state.id.as_deref() == Some(id) { state.outcome.clone() } else { None }
    }

    /// Whether work is under way.
    pub(crate) fn running(&self) -> bool {
        lock(&self.0).running
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-changed under this lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
