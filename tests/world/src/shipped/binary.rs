//! Which binary a keeper is, and its hand-over to another: the keeper's side as far as agents and controllers see it. What really happens
//! to a process and its etcd is tested beside the keeper (`src/keeper/tests/hand_over.rs`).

use std::fs;
use std::path::Path;

use etcd_operator_keeper::binary::sha256;
use etcd_operator_keeper::contract::{HandOver, HandOverStep, Order, Paths};

use crate::Ms;

/// How long a new keeper has to prove itself, ms (`keeper/clock.rs`).
const PROVE_MS: Ms = 10_000;

/// One keeper's.
#[derive(Default)]
pub(crate) struct Binary {
    /// What runs; unknown until the pod starts.
    pub(crate) runs: Option<String>,
    pub(crate) hand_over: Option<HandOver>,
    since: Ms,
}

impl Binary {
    /// The container is gone, by the power of its node: nobody is to blame.
    pub(crate) fn lose(&mut self) {
        self.runs = None;
        self.hand_over = self.hand_over.take().filter(|h| matches!(h.step, HandOverStep::Done | HandOverStep::Refused));
    }

    /// Whether a hand-over is under way.
    pub(crate) fn is_open(&self) -> bool {
        self.hand_over.as_ref().is_some_and(|h| matches!(h.step, HandOverStep::Begun | HandOverStep::Proving))
    }

    /// A look of the keeper.
    pub(crate) fn tick(&mut self, now: Ms, paths: &Paths, order: &Order) {
        let runs = self.runs.get_or_insert_with(|| hash(&paths.keeper()));
        if let Some(open) = self.hand_over.as_mut().filter(|h| h.step == HandOverStep::Proving) {
            if now >= self.since + PROVE_MS {
                let kept = fs::rename(paths.keeper_next(), paths.keeper());
                debug_assert!(kept.is_ok(), "{kept:?}");
                open.step = HandOverStep::Done;
            }
            return;
        }
        let Some(wanted) = order.keeper.as_ref().filter(|wanted| *wanted != runs) else { return };
        if hash(&paths.keeper_next()) == *wanted {
            self.since = now;
            self.runs = Some(wanted.clone());
            self.hand_over = Some(HandOver {
                to: wanted.clone(),
                step: HandOverStep::Proving,
                message: String::new(),
                etcd: None,
                boot_id: String::new(),
            });
        }
    }
}

/// Empty = there is no such file.
pub(crate) fn hash(path: &Path) -> String {
    sha256(path).unwrap_or_default()
}
