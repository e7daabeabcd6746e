//! Metrics of the EtcdBackups, made from the objects themselves when somebody asks.

use std::fmt;
use std::sync::{Arc, OnceLock};

use etcd_operator_api::EtcdBackup;
use kube::ResourceExt as _;
use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::decide::{self, Begin};
use super::{past, schedule};
use crate::clock;
use crate::telemetry::metrics::seconds_of;

/// All EtcdBackups that this process watches.
#[derive(Clone, Default)]
pub struct Figures(Arc<OnceLock<Store<EtcdBackup>>>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Figures {
    /// From here on.
    pub fn watch(&self, store: Store<EtcdBackup>) {
        let _ = self.0.set(store);
    }
}

const LAST: &str = "When the newest backup that was proven was begun";
const DUE: &str = "When the next backup is due; in the past where it has not been taken yet";
const FAILURES: &str = "Runs in a row that ended without a backup";

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(store) = self.0.get() else { return Ok(()) };
        let all = store.state();
        if all.is_empty() {
            return Ok(());
        }
        let now_ms = clock::now_ms();
        type Value = fn(&EtcdBackup, u64) -> Option<f64>;
        let gauges: [(&str, &str, Value); 3] = [
            ("backup_last_success_timestamp_seconds", LAST, |backup, _| last(backup)),
            ("backup_due_timestamp_seconds", DUE, due),
            ("backup_failures", FAILURES, |backup, _| Some(failures(backup))),
        ];
        for (name, help, value) in gauges {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for backup in &all {
                if let Some(value) = value(backup, now_ms) {
                    let labels = [("backup", backup.name_any()), ("cluster", backup.spec.cluster_name.clone())];
                    ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

fn last(backup: &EtcdBackup) -> Option<f64> {
    let date = backup.status.as_ref()?.last_success_date.as_deref()?;
    clock::parse_rfc3339(date).map(seconds_of)
}

#[expect(clippy::cast_precision_loss, reason = "a count of failures")]
fn failures(backup: &EtcdBackup) -> f64 {
    backup.status.as_ref().map_or(0.0, |status| status.failures as f64)
}

fn due(backup: &EtcdBackup, now_ms: u64) -> Option<f64> {
    let past = past(backup);
    // One that is under way, or failed, was due then and still is.
    let is_open = backup.status.as_ref().is_some_and(|status| status.run.is_some() || !status.succeeded);
    if let Some(last) = past.last_ms.filter(|_| is_open && !past.suspend) {
        return Some(seconds_of(last));
    }
    match decide::begin(&past, &schedule::parse(backup.spec.backup_policy.as_ref()).ok()?, now_ms) {
        Begin::Now(at) | Begin::At(at) => Some(seconds_of(at)),
        Begin::No => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcd_operator_api::backup::BackupPolicy;
    use etcd_operator_api::{EtcdBackupSpec, EtcdBackupStatus};

    #[test]
    fn what_is_due_stays_due_until_it_is_taken() {
        let policy = BackupPolicy { backup_interval_in_second: Some(3600), ..BackupPolicy::default() };
        let spec = EtcdBackupSpec {
            cluster_name: "kube-etcd".into(),
            storage_type: etcd_operator_api::backup::StorageType::Node,
            backup_policy: Some(policy),
            suspend: false,
            node: None,
            s3: None,
        };
        let mut backup = EtcdBackup::new("hourly", spec);
        let at = |s: u64| Some(clock::rfc3339(s * 1000));
        backup.status = Some(EtcdBackupStatus {
            succeeded: true,
            last_execution_date: at(1000),
            last_success_date: at(1001),
            ..Default::default()
        });
        assert_eq!((due(&backup, 2_000_000), last(&backup)), (Some(4600.0), Some(1001.0)));
        assert_eq!(due(&backup, 5_000_000), Some(4600.0), "nobody began it");
        backup.status.as_mut().unwrap().succeeded = false;
        assert_eq!(due(&backup, 2_000_000), Some(1000.0), "the last one failed");
        backup.spec.suspend = true;
        assert_eq!(due(&backup, 5_000_000), None);
    }
}
