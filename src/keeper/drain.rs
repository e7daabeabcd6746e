//! Drain, remove, kill: how a living member is removed without a failed write (design D7.5).
//!
//! SIGTERM makes etcd finish what it has begun; while a client's stream is open on it this lasts up to 7 s, in which it still votes.
//! Meanwhile the controller removes it. Nothing from here on goes through the API, which may be served by this very member: the keeper
//! asks the *other* members itself. No longer listed: killed shortly after, since watches would stay open on a member that no longer
//! hears anything. Still listed, or no answer, after 10 s: started again, for a controller that died must not cost a member.

use std::time::Duration;

use etcd_operator_etcd::client::{EtcdClient, HeldWatch, Tls};

use crate::ask::{Poll, others};
use crate::child::{Event, reap_orphans};
use crate::clock::now;
use crate::contract::{DrainState, DrainStep, Phase};
use crate::files::note;
use crate::running::{Running, Told};
use crate::supervise::{Keeper, Next};
use crate::table::Reason;

/// How long the stream may take that holds the drain open: the removal does not depend on it.
const HOLD_LIMIT: Duration = Duration::from_millis(500);

impl Keeper {
    /// The member is removed: a drain that is open, or that no etcd was there for, is over.
    pub(crate) fn nothing_left_to_drain(&mut self) {
        self.close_drain(DrainStep::Gone);
        let ordered = self.order.as_ref().and_then(|o| o.drain.as_ref()).map(|d| d.id.clone());
        if let Some(id) = ordered.filter(|id| !self.store.state.consumed.contains(id)) {
            note(&mut self.store.state.consumed, &id);
            self.store.state.drain = Some(DrainState { id, step: DrainStep::Gone });
        }
    }

    /// A watch on this member's own etcd, if that is possible: a learner refuses it.
    async fn hold_open(&self, running: &Running) -> Option<HeldWatch> {
        let tls = Tls::read(&self.paths.pki()).ok()?;
        let watch = async { EtcdClient::new(&running.order.etcd.client_url, &tls).await?.hold_watch().await };
        match tokio::time::timeout(HOLD_LIMIT, watch).await {
            Ok(Ok(held)) => Some(held),
            Ok(Err(error)) => {
                tracing::info!(%error, "no stream of the keeper's own holds the drain open");
                None
            }
            Err(_) => None,
        }
    }

    /// Carries out a drain from the signal to its end.
    pub(crate) async fn drain(&mut self, running: &Running, id: &str) -> Next {
        let timing = self.args.timing.clone();
        let member = running.owner.member;
        // Held until the end: with no stream open etcd's drain is over at once, and with it this member's vote, which the removal
        // needs where there are two voters. The controller holds one as well.
        let _held = self.hold_open(running).await;
        self.store.state.drain = Some(DrainState { id: id.to_owned(), step: DrainStep::Signalled });
        // On disk before the signal, if at all possible: a keeper that dies in between then knows what was under way. If not, the one
        // thing that is lost is this knowledge; the start table would still decide rightly.
        self.publish(Phase::Draining, Reason::Removing, &format!("drain {id}"));
        running.etcd.terminate();
        let signalled = now();
        let order = self.order.clone().unwrap_or_else(|| running.order.clone());
        let mut poll = Poll::start(
            &self.paths.pki(),
            &others(&order, &self.store.state),
            running.owner.cluster,
            timing.drain_poll,
            timing.ask,
        );
        let (mut told, mut gone) = (Told::Nothing, false);
        let removed = loop {
            tokio::select! {
                biased;
                event = self.events.next(signalled + timing.drain) => match event {
                    Event::Terminate => told = Told::ToEnd,
                    Event::Child => gone = running.etcd.reap().is_some() || gone,
                    Event::Time => break false,
                },
                members = poll.next() => {
                    if !members.members.iter().any(|m| m.id == member) {
                        break true;
                    }
                }
            }
            if gone && told == Told::ToEnd {
                // The next keeper finds the drain open and decides by the table.
                self.store.state.etcd_pid = None;
                return Next::Exit(self.terminated());
            }
        };
        drop(poll);
        let step = if removed {
            note(&mut self.store.state.removed, &member.to_string());
            DrainStep::Gone
        } else {
            DrainStep::StartedAgain
        };
        tracing::info!(%member, removed, after_ms = signalled.elapsed().as_millis(), "the drain is decided");
        self.close_drain(step);
        self.save("how the drain ended");
        if gone {
            reap_orphans();
        } else {
            let patience = if removed { timing.drain_kill } else { Duration::ZERO };
            if self.wait_for_end(&running.etcd, Some(now() + patience)).await == Told::ToEnd {
                told = Told::ToEnd;
            }
        }
        self.store.state.etcd_pid = None;
        self.backoff.reset();
        match told {
            Told::ToEnd => Next::Exit(self.terminated()),
            Told::Nothing => Next::Decide,
        }
    }
}
