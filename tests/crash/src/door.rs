//! A process's way to the outside.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::plan::{Fault, Role, Shared, When};

/// How often one that stands still looks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// As after a SIGKILL. (The first process of a container cannot kill itself by a signal.)
const KILLED: i32 = 137;
const NONE: usize = usize::MAX;

/// All calls of one process.
#[derive(Clone, Debug)]
pub struct Door(Arc<State>);

#[derive(Debug)]
struct State {
    role: Role,
    shared: Shared,
    calls: AtomicU64,
    /// The fault by which it stands still; [`NONE`] = it does not.
    stands_still: AtomicUsize,
}

impl Door {
    /// The door of a process.
    #[must_use]
    pub fn new(role: Role, shared: Shared) -> Self {
        let state = State { role, shared, calls: AtomicU64::new(0), stands_still: AtomicUsize::new(NONE) };
        Self(Arc::new(state))
    }

    /// Makes a call. A fault of the scenario's may come to pass before or after it.
    pub async fn call<T>(&self, name: &str, call: impl Future<Output = T>) -> T {
        let number = self.0.calls.fetch_add(1, Ordering::Relaxed) + 1;
        self.pass(When::Before, name, number).await;
        let answer = call.await;
        self.pass(When::After, name, number).await;
        answer
    }

    /// The same for a call that is over at once.
    pub fn at_once<T>(&self, name: &str, call: impl FnOnce() -> T) -> T {
        let number = self.0.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let pass = |when| {
            self.fault(when, name, number);
            while self.waits() {
                std::thread::sleep(LOOK_EVERY);
            }
        };
        pass(When::Before);
        let answer = call();
        pass(When::After);
        answer
    }

    async fn pass(&self, when: When, name: &str, number: u64) {
        self.fault(when, name, number);
        while self.waits() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn fault(&self, when: When, name: &str, number: u64) {
        let role = self.0.role;
        match self.0.shared.take(role, when, name, number) {
            Ok(Some(Fault::Die)) => {
                eprintln!("etcd-operator-crash: {role:?} dies {when:?} its call {number}, {name}");
                std::process::exit(KILLED);
            }
            Ok(Some(Fault::Hold(index))) => {
                eprintln!("etcd-operator-crash: {role:?} stands still {when:?} its call {number}, {name}");
                self.0.stands_still.store(index, Ordering::SeqCst);
            }
            Ok(None) => {}
            Err(error) => eprintln!("etcd-operator-crash: the scenario's folder cannot be used: {error}"),
        }
    }

    /// Whether this process stands still and was not let go.
    fn waits(&self) -> bool {
        let index = self.0.stands_still.load(Ordering::SeqCst);
        if index == NONE || self.0.shared.holds(index) {
            return index != NONE;
        }
        self.0.stands_still.store(NONE, Ordering::SeqCst);
        false
    }
}
