//! What the command prints: one line per change.

use std::time::Instant;

use etcd_operator_api::EtcdCluster;
use serde_json::json;

use super::Output;
use super::outcome::End;
use crate::clock;

pub(super) struct Progress {
    output: Output,
    started: Instant,
    last: String,
}

impl Progress {
    pub(super) fn new(output: Output) -> Self {
        Self { output, started: clock::instant(), last: String::new() }
    }

    /// Prints phase, members and what is waited for, if any of them changed.
    pub(super) fn show(&mut self, cluster: &EtcdCluster) {
        let status = cluster.status.clone().unwrap_or_default();
        let pivot = status.pivot.unwrap_or_default();
        let members = format!("ready {:?}, not ready {:?}", status.members.ready, status.members.unready);
        let line = format!("{:<18} {:<60} {} {}", pivot.phase, members, status.reason, status.message);
        if line == self.last {
            return;
        }
        self.last.clone_from(&line);
        let seconds = self.started.elapsed().as_secs_f32();
        match self.output {
            Output::Text => println!("{seconds:6.1} s  {}", line.trim_end()),
            Output::Json => println!(
                "{}",
                json!({"seconds": seconds, "phase": pivot.phase, "ready": status.members.ready, "unready": status.members.unready,
                       "reason": status.reason, "message": status.message})
            ),
        }
    }

    /// Prints a remark.
    pub(super) fn note(&mut self, text: &str) {
        if self.last == text {
            return;
        }
        text.clone_into(&mut self.last);
        let seconds = self.started.elapsed().as_secs_f32();
        match self.output {
            Output::Text => println!("{seconds:6.1} s  {text}"),
            Output::Json => println!("{}", json!({"seconds": seconds, "note": text})),
        }
    }
}

pub(super) fn last_words(output: Output, end: &End) {
    let (outcome, text) = match end {
        End::Done { what } => ("done", (*what).to_owned()),
        End::Held { reason, next_step } => ("held", format!("{reason}: {next_step}")),
        End::TimedOutBootInCharge { waiting_for } => (
            "timedOut",
            format!(
                "boot is still in charge and stays so (holdBootRemoval is set); run the command again to go on. It was waiting for: {waiting_for}"
            ),
        ),
        End::TimedOutBootStopped { waiting_for } => (
            "timedOutBootStopped",
            format!(
                "boot was stopped and the rest is not finished; run the command again to watch. It was waiting for: {waiting_for}"
            ),
        ),
        End::Refused { why } => ("refused", why.clone()),
    };
    match output {
        Output::Text => println!("{outcome}: {text}"),
        Output::Json => println!("{}", json!({"outcome": outcome, "message": text, "exitCode": end.exit_code()})),
    }
}
