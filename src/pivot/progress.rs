//! What the command prints: one line per change.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use etcd_operator_api::EtcdCluster;
use serde_json::{Value, json};

use super::Output;
use super::outcome::End;
use crate::clock::{self, Instant};

/// How often plain output says that it still waits for the same.
const REPEAT_AFTER: Duration = Duration::from_secs(15);

pub(super) struct Progress {
    output: Output,
    /// On a terminal the last line is live: it shows the time that passes.
    is_live: bool,
    started: Instant,
    last: String,
    said: Instant,
}

impl Progress {
    pub(super) fn new(output: Output) -> Self {
        let now = clock::instant();
        let is_live = output == Output::Text && std::io::stdout().is_terminal();
        Self { output, is_live, started: now, last: String::new(), said: now }
    }

    /// Shows phase, members and what is waited for.
    pub(super) fn show(&mut self, cluster: &EtcdCluster) {
        let status = cluster.status.clone().unwrap_or_default();
        if status.observed_generation == 0 {
            return self.say(
                "waiting for the controller to look at the EtcdCluster; is it running?",
                |_| json!({"note": "waiting for the controller"}),
            );
        }
        let pivot = status.pivot.unwrap_or_default();
        let members = format!("ready {:?}, not ready {:?}", status.members.ready, status.members.unready);
        let line = format!("{:<18} {:<60} {} {}", pivot.phase, members, status.reason, status.message);
        self.say(line.trim_end(), |_| {
            json!({"phase": pivot.phase, "ready": status.members.ready, "unready": status.members.unready,
                   "reason": status.reason, "message": status.message})
        });
    }

    /// Shows a remark.
    pub(super) fn note(&mut self, text: &str) {
        self.say(text, |text| json!({"note": text}));
    }

    /// A new line for what changed; what stays the same is shown with the time on a terminal, and repeated now and then elsewhere.
    fn say(&mut self, line: &str, as_json: impl FnOnce(&str) -> Value) {
        let is_new = line != self.last;
        let is_due = self.said.elapsed() >= REPEAT_AFTER;
        let seconds = self.started.elapsed().as_secs_f32();
        if is_new && !self.last.is_empty() {
            self.end_line();
        }
        if self.is_live {
            print!("\r\x1b[K{seconds:6.1} s  {line}");
            let _ = std::io::stdout().flush();
        } else if is_new || is_due {
            match self.output {
                Output::Text => println!("{seconds:6.1} s  {line}"),
                Output::Json => {
                    let mut object = as_json(line);
                    if let Some(fields) = object.as_object_mut() {
                        fields.insert("seconds".into(), seconds.into());
                    }
                    println!("{object}");
                }
            }
        }
        if is_new || is_due {
            self.said = clock::instant();
            line.clone_into(&mut self.last);
        }
    }

    /// Ends the live line.
    pub(super) fn end_line(&mut self) {
        if self.is_live && !self.last.is_empty() {
            println!();
            self.last.clear();
        }
    }
}

/// The outcome. `place` = the EtcdCluster as kubectl's arguments; `None` after a check, which leaves none.
pub(super) fn last_words(output: Output, end: &End, place: Option<&str>) {
    let taken_back = place.is_none();
    let place = place.unwrap_or_default();
    let hold = format!("kubectl patch {place} --type=merge -p '{{\"spec\":{{\"selfHosted\":{{\"holdBootRemoval\":true}}}}}}'");
    let (outcome, text) = match end {
        End::Done { what } => ("done", (*what).to_owned()),
        End::Held { reason, next_step } if taken_back => ("held", format!("{reason}: {next_step}")),
        End::TimedOutBootInCharge { waiting_for, .. } if taken_back => {
            ("timedOut", format!("the checks were not finished; nothing was changed. They were waiting for: {waiting_for}"))
        }
        End::Interrupted if taken_back => ("interrupted", "nothing was changed".to_owned()),
        End::Held { reason, next_step } => (
            "held",
            format!("{reason}: {next_step}. The pivot goes on by itself once that is done; to keep boot all the same: {hold}"),
        ),
        End::TimedOutBootInCharge { waiting_for, is_held: true } => (
            "timedOut",
            format!(
                "boot is still in charge and stays so (holdBootRemoval is set); run the command again to go on. It was waiting for: {waiting_for}"
            ),
        ),
        End::TimedOutBootInCharge { waiting_for, is_held: false } => (
            "timedOut",
            format!(
                "boot is still in charge; the operator goes on by itself (kubectl get {place}). It was waiting for: {waiting_for}"
            ),
        ),
        End::TimedOutBootStopped { waiting_for } => (
            "timedOutBootStopped",
            format!(
                "boot was stopped and the rest is not finished; run the command again to watch. It was waiting for: {waiting_for}"
            ),
        ),
        End::Refused { why } => ("refused", why.clone()),
        End::Interrupted => {
            ("interrupted", format!("the operator goes on without this command (kubectl get {place}); to keep boot: {hold}"))
        }
    };
    match output {
        Output::Text => println!("{outcome}: {text}"),
        Output::Json => println!("{}", json!({"outcome": outcome, "message": text, "exitCode": end.exit_code()})),
    }
}
