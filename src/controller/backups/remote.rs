//! Backups into object stores: the controller's own work, as agents read no Secret. A run is one task of this process; the next controller
//! begins it anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_operator_api::EtcdBackup;
use etcd_operator_api::backup::S3Store;
use etcd_operator_api::member::BackupTaken;
use etcd_operator_backup::{self as backup, Credentials, Keep, Order, Progress, Room, S3, Store, Whose};
use etcd_operator_etcd::client::Tls;
use etcd_operator_etcd::dial::Dial;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clock;
use crate::controller::Context;
use crate::controller::lease::Claim;

/// Why a run ended without a backup: reason and message.
pub(crate) type Failure = (String, String);

/// A run of this process.
#[derive(Clone)]
pub(crate) enum Run {
    UnderWay,
    Over(Result<BackupTaken, Failure>),
}

/// All of them, by their ID. They end with the process.
#[derive(Default)]
pub(crate) struct Runs {
    runs: Arc<Mutex<HashMap<String, Run>>>,
    tasks: Mutex<JoinSet<()>>,
    /// Runs that could not be begun, and since when they are known.
    seen: Mutex<HashMap<String, clock::Instant>>,
    /// One at a time: each holds some 30 MiB.
    turn: Turn,
}

struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-changed under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runs {
    /// What is known of a run; `None` = it was not begun here.
    pub(crate) fn look(&self, id: &str) -> Option<Run> {
        lock(&self.runs).get(id).cloned()
    }

    /// Its end is written down elsewhere.
    pub(crate) fn forget(&self, id: &str) {
        lock(&self.runs).remove(id);
        lock(&self.seen).remove(id);
    }

    /// For how long this process has known of a run that it could not begin yet.
    pub(crate) fn waited(&self, id: &str) -> Duration {
        lock(&self.seen).entry(id.to_owned()).or_insert_with(clock::instant).elapsed()
    }

    /// Begins one.
    pub(crate) fn begin(&self, work: Work) {
        let id = work.order.id.clone();
        lock(&self.runs).insert(id.clone(), Run::UnderWay);
        let (runs, turn) = (Arc::clone(&self.runs), Arc::clone(&self.turn.0));
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let outcome = work.run(turn).await;
            let mut runs = lock(&runs);
            match outcome {
                Some(outcome) => drop(runs.insert(id, Run::Over(outcome))),
                // Whoever leads begins it anew.
                None => drop(runs.remove(&id)),
            }
        });
    }
}

/// One run.
pub(crate) struct Work {
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) tls: Tls,
    /// Of the member that is asked.
    pub(crate) endpoint: String,
    pub(crate) store: Store,
    /// What a human calls it.
    pub(crate) shown: String,
    pub(crate) order: Order,
    pub(crate) keep: Keep,
    /// Whoever leads no more ends it: the next leader begins it anew.
    pub(crate) lease: Claim,
}

impl Work {
    /// `None` where this replica does not lead any more.
    async fn run(self, turn: Arc<Semaphore>) -> Option<Result<BackupTaken, Failure>> {
        let _turn = turn.acquire().await;
        if !self.lease.may_act() {
            return None;
        }
        let taken = self.take().await;
        self.lease.may_act().then_some(taken)
    }

    async fn take(&self) -> Result<BackupTaken, Failure> {
        let failed = |error: backup::Error| (error.reason().word().to_owned(), error.to_string());
        let now = || backup::timestamp(clock::now_ms());
        let etcd = self.dial.etcd(&self.endpoint, &self.tls).await.map_err(|error| failed(error.into()))?;
        let (progress, leads) = (Progress::default(), Leads(&self.lease));
        let taken = backup::take(etcd.as_ref(), &self.store, &leads, &self.order, now(), &progress);
        let taken = taken.await.map_err(failed)?;
        let whose = Whose { backup: &self.order.backup, cluster_id: Some(&taken.manifest.cluster_id) };
        let kept = backup::clear(&self.store, whose, self.keep, Some(&taken.name), now()).await;
        Ok(etcd_operator_agent::backup_report(format!("{}/{}", self.shown, taken.name.data()), &taken, kept))
    }
}

/// Nothing more is written by whoever does not lead any more: the writer then takes back what it has begun.
struct Leads<'a>(&'a Claim);

impl Room for Leads<'_> {
    fn check(&self, _: u64) -> Result<(), String> {
        if self.0.may_act() { Ok(()) } else { Err("this replica does not lead any more".into()) }
    }
}

/// The store of an EtcdBackup.
pub(crate) async fn store(context: &Context, backup: &EtcdBackup) -> Result<(Store, String), Failure> {
    let missing = |why: &str| ("StoreMissing".to_owned(), why.to_owned());
    let Some(s3) = &backup.spec.s3 else { return Err(missing("spec.s3: is needed with storageType S3")) };
    let mut place = S3 {
        path: s3.path.clone(),
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        path_style: s3.force_path_style,
        ca: None,
        credentials: None,
    };
    if !s3.aws_secret.is_empty() {
        let secret = secret(context, "spec.s3.awsSecret", &s3.aws_secret).await?;
        let (credentials, region) = credentials(s3, &secret)?;
        place.credentials = Some(credentials);
        if place.region.is_empty() {
            place.region = region;
        }
    }
    if !s3.ca_secret.is_empty() {
        let ca = text(&secret(context, "spec.s3.caSecret", &s3.ca_secret).await?, "ca.crt");
        place.ca =
            Some(ca.ok_or_else(|| missing(&format!("spec.s3.caSecret: Secret {} has no ca.crt", s3.ca_secret)))?.into_bytes());
    }
    let store = place.store().map_err(|error| (error.reason().word().to_owned(), error.to_string()))?;
    Ok((store, format!("s3://{}", s3.path)))
}

async fn secret(context: &Context, field: &str, name: &str) -> Result<Secret, Failure> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.args.namespace);
    secrets.get(name).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 404 => ("StoreDenied".to_owned(), format!("{field}: there is no Secret {name} in this namespace")),
        kube::Error::Api(status) if status.code == 403 => {
            let why = format!("{field}: the controller may not read Secret {name}: call it etcd-backup, or add its name to the Role (deploy/rbac-controller.yaml)");
            ("StoreDenied".to_owned(), why)
        }
        error => ("StoreDenied".to_owned(), format!("{field}: Secret {name} cannot be read: {error}")),
    })
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok()
}

/// From the files of the AWS command line.
fn credentials(s3: &S3Store, secret: &Secret) -> Result<(Credentials, String), Failure> {
    let name = &s3.aws_secret;
    let denied = |why: &str| ("StoreDenied".to_owned(), format!("spec.s3.awsSecret: Secret {name} {why}"));
    let file = text(secret, "credentials").ok_or_else(|| denied("has no key `credentials`"))?;
    let value = |key: &str| of_default_profile(&file, key);
    let (Some(id), Some(secret_key)) = (value("aws_access_key_id"), value("aws_secret_access_key")) else {
        return Err(denied("has no aws_access_key_id and aws_secret_access_key in [default] of `credentials`"));
    };
    let region = text(secret, "config").and_then(|config| of_default_profile(&config, "region")).unwrap_or_default();
    Ok((Credentials { id, secret: secret_key, token: value("aws_session_token") }, region))
}

/// A value of the profile `default`; what stands before any profile counts as of it.
fn of_default_profile(file: &str, key: &str) -> Option<String> {
    let mut profile = "default".to_owned();
    for line in file.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.trim().trim_start_matches("profile ").trim().clone_into(&mut profile);
        } else if let Some((name, value)) = line.split_once('=')
            && profile == "default"
            && name.trim() == key
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_of_the_files_is_read() {
        let file =
            "# a comment\n[other]\naws_access_key_id = no\n[default]\naws_access_key_id=AKIA\n aws_secret_access_key = a/b+c=\n";
        assert_eq!(of_default_profile(file, "aws_access_key_id").as_deref(), Some("AKIA"));
        assert_eq!(of_default_profile(file, "aws_secret_access_key").as_deref(), Some("a/b+c="));
        assert_eq!(of_default_profile(file, "aws_session_token"), None);
        assert_eq!(of_default_profile("[profile default]\nregion = eu-central-1", "region").as_deref(), Some("eu-central-1"));
        assert_eq!(of_default_profile("region = x", "region").as_deref(), Some("x"));
        let s3 = S3Store { aws_secret: "etcd-backup".into(), ..S3Store::default() };
        let secret = |file: &str| Secret {
            data: Some([("credentials".to_owned(), k8s_openapi::ByteString(file.into()))].into()),
            ..Secret::default()
        };
        assert_eq!(credentials(&s3, &secret(file)).unwrap().0.id, "AKIA");
        for bad in [Secret::default(), secret("[default]\n"), secret("[default]\naws_access_key_id = AKIA")] {
            let (reason, why) = credentials(&s3, &bad).unwrap_err();
            assert_eq!(reason, "StoreDenied");
            assert!(why.contains("spec.s3.awsSecret: Secret etcd-backup"), "{why}");
        }
    }
}
