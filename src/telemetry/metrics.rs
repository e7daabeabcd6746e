//! Metrics in the OpenMetrics text format. Counters and histograms are of this process; gauges of the EtcdClusters are what the last pass of
//! the leader saw, and gone where this replica does not lead.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_operator_client::{ApiCall, CallObserver};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::contact::Contact;
use crate::clock::{Instant, instant};
use crate::controller::BackupFigures;

/// Name and value of each label.
pub type Labels<const N: usize> = [(&'static str, String); N];
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// 1 ms to 16 s, doubling: a call to etcd in a quiet cluster is at the lower end, a drain and removal at the upper.
fn seconds() -> Histogram {
    Histogram::new((0..15_i32).map(|n| 0.001 * 2_f64.powi(n)))
}

/// A gauge of an EtcdCluster.
#[derive(Debug, PartialEq, Eq)]
pub struct Gauge {
    /// Its name, without the prefix.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
}

macro_rules! gauges {
    ($($(#[$doc:meta])* $id:ident = $name:literal: $help:literal;)+) => {
        $($(#[$doc])* pub static $id: Gauge = Gauge { name: $name, help: $help };)+
        /// All gauges of an EtcdCluster.
        pub static GAUGES: &[&Gauge] = &[$(&$id,)+];
    };
}

gauges! {
    /// `spec.size`.
    SIZE_WANTED = "size_wanted": "Members that the spec wants";
    /// Voters and learners.
    MEMBER_HEALTHY = "member_healthy": "Whether a listed member answers, knows a leader and reports nothing wrong of its own";
    /// Who leads.
    MEMBER_LEADER = "member_is_leader": "Whether a listed member leads";
    /// Lag.
    MEMBER_LAG = "member_lag_entries": "Raft entries that a member has not applied yet, behind the highest commit index seen in the same round";
    /// Size.
    MEMBER_DB = "member_db_size_bytes": "Size of a member's database on disk";
    /// Tolerance.
    TOLERANCE = "failure_tolerance": "Healthy voters that may fail before the quorum is lost; negative: it is lost";
    /// Conditions.
    CONDITION = "condition": "A condition of the EtcdCluster: 1 True, 0 False, -1 Unknown";
    /// Holds.
    HOLD = "hold": "1 while the operator holds, with the reason";
    /// Since when.
    HOLD_SINCE = "hold_since_timestamp_seconds": "When the operator began to hold for this reason, as far as this replica has seen";
    /// Certificates.
    CERTIFICATE = "certificate_expiry_timestamp_seconds": "When the certificate that the controller signed last for a node expires";
    /// The last pass.
    LAST_PASS = "last_pass_timestamp_seconds": "When the last pass over this EtcdCluster ended without an error";
}

/// One value of a gauge.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Which.
    pub gauge: &'static Gauge,
    /// Its labels beside `cluster`.
    pub labels: Vec<(&'static str, String)>,
    /// Its value.
    pub value: f64,
}

/// An EtcdCluster that no pass has come to for so long is not there any more: the longest pause between two is 10 s.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// An EtcdCluster, as last seen.
#[derive(Clone, Debug)]
struct Seen {
    samples: Vec<Sample>,
    /// When a pass ended last, whichever way.
    at: Instant,
    /// When one ended without an error, seconds since 1970.
    well: Option<f64>,
}

/// The gauges of all EtcdClusters.
#[derive(Clone, Debug, Default)]
struct Gauges(Arc<Mutex<BTreeMap<String, Seen>>>);

impl Gauges {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut all = self.all();
        all.retain(|_, seen| seen.at.elapsed() < FORGOTTEN);
        for gauge in GAUGES {
            let of_gauge = |(cluster, seen): (&String, &Seen)| {
                let well = seen.well.map(|value| Sample { gauge: &LAST_PASS, labels: Vec::new(), value });
                let samples = seen.samples.iter().cloned().chain(well).filter(|s| s.gauge == *gauge);
                samples.map(|s| ([vec![("cluster", cluster.clone())], s.labels].concat(), s.value)).collect::<Vec<_>>()
            };
            let samples: Vec<_> = all.iter().flat_map(of_gauge).collect();
            if samples.is_empty() {
                continue;
            }
            let mut metric = encoder.encode_descriptor(gauge.name, gauge.help, None, MetricType::Gauge)?;
            for (labels, value) in samples {
                ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Of milliseconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "exact for some 285,000 years")]
pub fn seconds_of(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was nothing to do.
    Settled,
    /// A step was taken or tried.
    Step,
    /// Something is waited for.
    Waits,
    /// A human is waited for.
    Holds,
    /// Somebody else wrote first.
    Conflict,
    /// The API or etcd failed.
    Error,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Step => "step",
            Self::Waits => "waits",
            Self::Holds => "holds",
            Self::Conflict => "conflict",
            Self::Error => "error",
        }
    }
}

/// Everything that is counted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    passes: Family<Labels<2>, Counter>,
    pass_seconds: Histograms<1>,
    steps: Family<Labels<3>, Counter>,
    etcd_calls: Histograms<2>,
    api_calls: Histograms<3>,
    leading: prometheus_client::metrics::gauge::Gauge,
    gauges: Gauges,
    /// When the API was heard of last.
    pub contact: Contact,
    /// The EtcdBackups.
    pub backups: BackupFigures,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("etcd_operator");
        let passes = Family::default();
        registry.register("passes", "Passes over an EtcdCluster, by how they ended", passes.clone());
        let pass_seconds = Histograms::new_with_constructor(seconds);
        registry.register_with_unit("pass_duration", "How long passes took", Unit::Seconds, pass_seconds.clone());
        let steps = Family::default();
        registry.register(
            "steps",
            "Steps taken, by kind and outcome: done, not_yet (refused in a way that passes), error",
            steps.clone(),
        );
        let etcd_calls = Histograms::new_with_constructor(seconds);
        let help = "Calls to etcd by kind; code is ok, or what the error means";
        registry.register_with_unit("etcd_call_duration", help, Unit::Seconds, etcd_calls.clone());
        let api_calls = Histograms::new_with_constructor(seconds);
        let help =
            "Requests to the API servers until their answer (of a watch: until it begins); code is the HTTP status, or none";
        registry.register_with_unit("api_call_duration", help, Unit::Seconds, api_calls.clone());
        let leading = prometheus_client::metrics::gauge::Gauge::default();
        registry.register("leading", "1 where this replica holds the Lease", leading.clone());
        registry.register("build", "The operator", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let (gauges, contact, backups) = (Gauges::default(), Contact::default(), BackupFigures::default());
        registry.register_collector(Box::new(gauges.clone()));
        registry.register_collector(Box::new(contact.clone()));
        registry.register_collector(Box::new(backups.clone()));
        Self {
            registry: Arc::new(registry),
            passes,
            pass_seconds,
            steps,
            etcd_calls,
            api_calls,
            leading,
            gauges,
            contact,
            backups,
        }
    }
}

impl Metrics {
    /// A pass ended, at this time (ms since 1970).
    pub fn pass(&self, cluster: &str, outcome: Outcome, took: Duration, now_ms: u64) {
        if let Some(seen) = self.gauges.all().get_mut(cluster) {
            seen.at = instant();
            match outcome {
                Outcome::Settled | Outcome::Step | Outcome::Waits | Outcome::Holds => seen.well = Some(seconds_of(now_ms)),
                Outcome::Conflict | Outcome::Error => {}
            }
        }
        self.passes.get_or_create(&[("cluster", cluster.to_owned()), ("outcome", outcome.as_str().to_owned())]).inc();
        self.pass_seconds.get_or_create(&[("cluster", cluster.to_owned())]).observe(took.as_secs_f64());
    }

    /// A step was tried.
    pub fn step(&self, cluster: &str, step: &str, outcome: &str) {
        let labels = [("cluster", cluster.to_owned()), ("step", step.to_owned()), ("outcome", outcome.to_owned())];
        self.steps.get_or_create(&labels).inc();
    }

    /// etcd answered, or did not.
    pub fn etcd_call(&self, call: &'static str, code: &str, took: Duration) {
        self.etcd_calls.get_or_create(&[("call", call.to_owned()), ("code", code.to_owned())]).observe(took.as_secs_f64());
    }

    /// Whether this replica leads, and whether it looks at the clusters. Who does not knows nothing of them any more.
    pub fn set_leading(&self, leads: bool, looks: bool) {
        self.leading.set(i64::from(leads));
        if !looks {
            self.gauges.all().clear();
        }
    }

    /// What a pass saw of a cluster; `None` = it is gone.
    pub fn set_cluster(&self, cluster: &str, samples: Option<Vec<Sample>>) {
        let mut all = self.gauges.all();
        let well = all.get(cluster).and_then(|seen| seen.well);
        match samples {
            Some(samples) => drop(all.insert(cluster.to_owned(), Seen { samples, at: instant(), well })),
            None => drop(all.remove(cluster)),
        }
    }

    /// As text.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl CallObserver for Metrics {
    fn called(&self, call: &ApiCall) {
        self.contact.note(call);
        let code = call.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        let labels = [("verb", call.verb.to_owned()), ("resource", call.resource.clone()), ("code", code)];
        self.api_calls.get_or_create(&labels).observe(call.took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_of_whoever_leads_and_of_the_members_that_are_there() {
        let metrics = Metrics::default();
        let healthy = |member: &str| Sample { gauge: &MEMBER_HEALTHY, labels: vec![("member", member.to_owned())], value: 1.0 };
        metrics.set_leading(true, true);
        metrics.set_cluster("kube-etcd", Some(vec![healthy("cp1-1"), healthy("cp2-1")]));
        metrics.set_cluster("kube-etcd", Some(vec![healthy("cp1-1")]));
        let line = r#"etcd_operator_member_healthy{cluster="kube-etcd",member="cp1-1"} 1"#;
        let text = metrics.text().unwrap();
        assert!(text.contains(line) && text.contains("etcd_operator_leading 1"), "{text}");
        assert!(!text.contains("cp2-1"), "{text}");
        // That a pass failed leaves the time of the last good one.
        metrics.pass("kube-etcd", Outcome::Settled, Duration::ZERO, 1_000);
        metrics.pass("kube-etcd", Outcome::Error, Duration::ZERO, 9_000);
        metrics.set_cluster("kube-etcd", Some(vec![healthy("cp1-1")]));
        let text = metrics.text().unwrap();
        assert!(text.contains(r#"etcd_operator_last_pass_timestamp_seconds{cluster="kube-etcd"} 1"#), "{text}");
        metrics.set_leading(false, false);
        assert!(!metrics.text().unwrap().contains("cp1-1"));
    }

    #[test]
    fn passes_steps_and_calls_are_counted() {
        let metrics = Metrics::default();
        metrics.pass("c", Outcome::Holds, Duration::from_millis(3), 0);
        metrics.step("c", "Promote", "done");
        metrics.etcd_call("MemberList", "ok", Duration::from_millis(1));
        let call = ApiCall { verb: "list", resource: "nodes".into(), code: Some(200), took: Duration::from_millis(1) };
        metrics.called(&call);
        let text = metrics.text().unwrap();
        for line in [
            r#"etcd_operator_passes_total{cluster="c",outcome="holds"} 1"#,
            r#"etcd_operator_pass_duration_seconds_count{cluster="c"} 1"#,
            r#"etcd_operator_steps_total{cluster="c",step="Promote",outcome="done"} 1"#,
            r#"etcd_operator_etcd_call_duration_seconds_count{call="MemberList",code="ok"} 1"#,
            r#"etcd_operator_api_call_duration_seconds_count{verb="list",resource="nodes",code="200"} 1"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
