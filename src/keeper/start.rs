//! Starting etcd: what must be on disk first, and what must be there.

use std::fs::File;
use std::path::Path;

use etcd_operator_etcd::client::Members;
use etcd_operator_etcd::wal::Owner;

use crate::child::Etcd;
use crate::contract::{DrainStep, Identity, Order, Phase};
use crate::disk::{self, ArchiveError};
use crate::files::note;
use crate::first_start::FirstStart;
use crate::identity;
use crate::last_words::Output;
use crate::left_behind;
use crate::look::Look;
use crate::render::{InitialCheck, Start, flags};
use crate::running::Running;
use crate::supervise::{Keeper, Next};
use crate::table::{Decision, Reason};

/// What etcd and the keeper's own client need.
const CERTIFICATES: [&str; 7] = ["ca.crt", "peer.crt", "peer.key", "server.crt", "server.key", "client.crt", "client.key"];

/// Why etcd is not started after all.
struct Obstacle(Reason, String);

impl Keeper {
    /// Starts etcd as decided and stays with it until it has ended.
    pub(crate) async fn start(&mut self, order: &Order, look: &Look) -> Next {
        match self.try_start(order, look) {
            Ok(running) => self.supervise_etcd(running).await,
            Err(Obstacle(reason, why)) => {
                self.publish(Phase::Waiting, reason, &why);
                Next::Idle(self.args.timing.decide_again)
            }
        }
    }

    fn try_start(&mut self, order: &Order, look: &Look) -> Result<Running, Obstacle> {
        let version = self.version.ok_or_else(|| Obstacle(Reason::EtcdNotRunnable, String::new()))?;
        self.check_certificates()?;
        let data_dir = self.paths.member(&order.member_name);
        check_locks(&data_dir)?;
        let (owner, start) = plan(order, look)?;
        let flags_now =
            flags(order, &self.paths, version, &start).map_err(|why| Obstacle(Reason::PeerUrlDiffers, why.to_string()))?;
        // Compared with later orders to see whether etcd must be restarted.
        let flags_of_data = flags(order, &self.paths, version, &Start::Data(InitialCheck::Off)).unwrap_or_default();
        // Before anything of this start is written down, as it may take a moment.
        if let Some(members) = &look.members {
            let ended = &self.store.state.ended;
            left_behind::archive(&self.paths, &order.member_name, members, ended, self.args.archive_limit);
        }
        self.write_down(order, look, owner)?;
        let is_first = matches!(look.decision, Decision::Join(_) | Decision::Bootstrap(_));
        let first = if is_first { FirstStart::watch(&data_dir) } else { None };
        tracing::info!(reason = ?look.decision.reason(), member = %owner.member, flags = ?flags_now, "starting etcd");
        let (output, file) = self.output();
        let etcd = Etcd::spawn(&self.args.etcd, &flags_now, file)
            .map_err(|error| Obstacle(Reason::EtcdNotRunnable, format!("{}: {error}", self.args.etcd.display())))?;
        let state = &mut self.store.state;
        state.etcd_pid = Some(etcd.pid());
        state.runs_with = Some(order.etcd.clone());
        // It reaches as far as it should: the right disk is back.
        state.held = None;
        state.etcd_starts = state.etcd_starts.saturating_add(1);
        self.restarted(order);
        // A drain that was open when the keeper ended: the table has decided, and it is over.
        self.close_drain(DrainStep::StartedAgain);
        self.publish(Phase::Running, look.decision.reason(), "");
        Ok(Running { etcd, order: order.clone(), owner, flags: flags_of_data, first, output, was_ready: false })
    }

    /// Where it writes to: read after the next end, if the last one came soon.
    fn output(&self) -> (Option<Output>, Option<File>) {
        if self.backoff.has_failed() {
            match Output::begin(&self.paths) {
                Ok((output, file)) => return (Some(output), Some(file)),
                Err(error) => tracing::warn!(%error, "what etcd says cannot be read along"),
            }
        }
        Output::forget(&self.paths);
        (None, None)
    }

    fn check_certificates(&self) -> Result<(), Obstacle> {
        let missing: Vec<&str> = CERTIFICATES.into_iter().filter(|file| !self.paths.pki().join(file).is_file()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Obstacle(Reason::CertificatesMissing, format!("{} in {}", missing.join(", "), self.paths.pki().display())))
    }

    /// Everything that must survive a power cut in the instant in which etcd starts.
    fn write_down(&mut self, order: &Order, look: &Look, owner: Owner) -> Result<(), Obstacle> {
        let before = self.store.state.clone();
        let state = &mut self.store.state;
        note(&mut state.ran_here, &owner.member.to_string());
        if let (None, Some(found)) = (&state.file_system, &look.file_system) {
            state.file_system = Some(found.record());
        }
        if let (Decision::Bootstrap(_), Some(permission)) = (look.decision, &order.permission) {
            note(&mut state.consumed, &permission.id);
            state.identity = Some(Identity {
                lineage: order.lineage,
                sequence: order.sequence,
                cluster_id: owner.cluster.to_string(),
                member_id: owner.member.to_string(),
                member_name: order.member_name.clone(),
            });
        }
        let essential = state.ran_here != before.ran_here || state.identity != before.identity;
        match self.store.save() {
            Err(error) if essential => {
                self.store.state = before;
                Err(Obstacle(Reason::StateUnwritable, format!("{}: {error}", self.paths.state().display())))
            }
            // A member that ran here before starts also when the state's disk is full: nothing new must be remembered.
            Err(error) => {
                tracing::error!(%error, "the state file cannot be written");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// etcd runs with what the order has: there is nothing left to restart it for.
    pub(crate) fn restarted(&mut self, order: &Order) {
        if let Some(restart) = &order.restart {
            let consumed = &mut self.store.state.consumed;
            // Sequences only go up: an earlier one never comes again.
            consumed.retain(|id| !id.starts_with("restart-"));
            note(consumed, &restart.id);
        }
    }

    /// Notes the end of a drain that is still open.
    pub(crate) fn close_drain(&mut self, step: DrainStep) {
        let state = &mut self.store.state;
        if let Some(drain) = state.drain.as_mut().filter(|d| d.step == DrainStep::Signalled) {
            drain.step = step;
            note(&mut state.consumed, &drain.id.clone());
        }
    }

    /// Remembers where the members are: the next start may find none of the order's endpoints alive.
    pub(crate) fn remember(&mut self, members: &Members) {
        let mut endpoints: Vec<String> = members.members.iter().flat_map(|m| m.client_urls.iter().cloned()).collect();
        endpoints.sort();
        endpoints.dedup();
        endpoints.retain(|url| crate::order::address(url).is_some());
        if !endpoints.is_empty() {
            self.store.state.known_endpoints = endpoints;
        }
    }
}

fn plan<'a>(order: &'a Order, look: &'a Look) -> Result<(Owner, Start<'a>), Obstacle> {
    let unknown = || Obstacle(Reason::NotAddedYet, "no identity".to_owned());
    match look.decision {
        Decision::Start(reason) => {
            let check = if reason == Reason::Listed { InitialCheck::On } else { InitialCheck::Off };
            Ok((look.identity.ok_or_else(unknown)?, Start::Data(check)))
        }
        Decision::Join(_) => {
            let owner = look.identity.ok_or_else(unknown)?;
            Ok((owner, Start::Join(look.members.as_ref().ok_or_else(unknown)?, owner.member)))
        }
        Decision::Bootstrap(_) => {
            let token = &order.permission.as_ref().ok_or_else(unknown)?.id;
            Ok((identity::of_new_cluster(&order.etcd.peer_url, token), Start::New(token)))
        }
        Decision::Archive(_)
        | Decision::Wait(_)
        | Decision::Refuse(_)
        | Decision::Stop(_)
        | Decision::RecordRemoval(_)
        | Decision::AwaitDisk(_) => Err(unknown()),
    }
}

/// etcd would wait for its locks without a word; better that the state says who is in the way.
fn check_locks(data_dir: &Path) -> Result<(), Obstacle> {
    match disk::lock(data_dir) {
        Ok(_released_at_once) => Ok(()),
        Err(error @ ArchiveError::InUse(_)) => Err(Obstacle(Reason::DataInUse, error.to_string())),
        Err(error) => Err(Obstacle(Reason::DiskUnreadable, error.to_string())),
    }
}
