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
const DUE: &str = "When the first backup after the last success is due; in the past where it has not been taken yet";
const FAILURES: &str = "Runs in a row that ended without a backup";

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(store) = self.0.get() else { return Ok(()) };
        let all = store.state();
        if all.is_empty() {
            return Ok(());
        }
        type Value = fn(&EtcdBackup) -> Option<f64>;
        let gauges: [(&str, &str, Value); 3] = [
            ("backup_last_success_timestamp_seconds", LAST, last),
            ("backup_due_timestamp_seconds", DUE, due),
            ("backup_failures", FAILURES, |backup| Some(failures(backup))),
        ];
        for (name, help, value) in gauges {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for backup in &all {
                if let Some(value) = value(backup) {
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

/// When the first one after the last success was due, or will be: that stays where it is, however often it is tried.
fn due(backup: &EtcdBackup) -> Option<f64> {
    let (past, spec) = (past(backup), &backup.spec);
    if spec.suspend {
        return None;
    }
    // A node's clock may be a little behind: what it took was for then at least.
    let status = backup.status.as_ref();
    let taken = status.and_then(|status| clock::parse_rfc3339(status.last_success_date.as_deref()?));
    let success = taken.max(past.last_ms.filter(|_| past.succeeded));
    let due_ms = match schedule::parse(spec.backup_policy.as_ref()) {
        Ok(schedule) => schedule.first_after(past.created_ms, success)?,
        // None is ever taken.
        Err(_) => success.unwrap_or(past.created_ms),
    };
    Some(seconds_of(due_ms))
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
        let created = jiff::Timestamp::from_second(500).unwrap();
        backup.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(created));
        assert_eq!((due(&backup), last(&backup)), (Some(500.0), None));
        let at = |s: u64| Some(clock::rfc3339(s * 1000));
        let taken = EtcdBackupStatus {
            succeeded: true,
            last_execution_date: at(1000),
            last_success_date: at(1001),
            ..Default::default()
        };
        backup.status = Some(taken.clone());
        assert_eq!((due(&backup), last(&backup)), (Some(4601.0), Some(1001.0)));
        backup.status.as_mut().unwrap().last_success_date = at(999);
        assert_eq!(due(&backup), Some(4600.0), "by a clock that is behind");
        // However often it is tried in vain.
        backup.status = Some(EtcdBackupStatus { succeeded: false, last_execution_date: at(900_000), ..taken });
        assert_eq!(due(&backup), Some(4601.0));
        backup.spec.backup_policy.as_mut().unwrap().schedule = Some("never".into());
        assert_eq!(due(&backup), Some(1001.0));
        backup.spec.suspend = true;
        assert_eq!(due(&backup), None);
    }
}
