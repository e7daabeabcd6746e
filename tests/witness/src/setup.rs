//! Before the run: the namespace, the two types of our own, and the objects that are written to.
//!
//! This part may retry: nothing is measured yet.

use std::fmt::Write as _;
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::catalog::{self, FEWEST_TYPES, Kind, NAMESPACE};
use crate::clock::{Clock, micros, sleep};
use crate::history::Object;
use crate::http::{HttpError, Pool};
use crate::options::WitnessError;

/// Longest that the API may take to accept the objects.
const PATIENCE: Duration = Duration::from_secs(90);
const ATTEMPT: Duration = Duration::from_secs(10);

/// What is written to.
pub struct Prepared {
    /// Types that the API server serves, with the resource version that their watch begins at.
    pub kinds: Vec<(Kind, u64)>,
    /// Objects, round robin over the types, with their path in the API.
    pub objects: Vec<(Object, String)>,
    /// What was refused, for `setup.log`.
    pub log: String,
}

/// Makes the objects. Server-side apply, so that objects of an earlier run are taken over as they are.
pub async fn prepare(pool: &Pool, server: &str, clock: Clock, objects_per_type: usize) -> Result<Prepared, WitnessError> {
    let give_up = clock.now() + micros(PATIENCE);
    let setup = |reason: String| WitnessError::Setup { server: server.into(), reason };
    let mut log = String::new();

    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {
        // Its pods never run; the label keeps a strict default from refusing them.
        "pod-security.kubernetes.io/enforce": "privileged"}}});
    insist(pool, clock, give_up, &format!("/api/v1/namespaces/{NAMESPACE}"), &namespace)
        .await
        .map_err(|error| setup(format!("namespace {NAMESPACE}: {error}")))?;
    for definition in catalog::own_definitions() {
        let name = definition.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        insist(pool, clock, give_up, &path, &definition)
            .await
            .map_err(|error| setup(format!("CustomResourceDefinition {name}: {error}")))?;
    }

    let mut kinds = Vec::new();
    for kind in catalog::kinds() {
        match prepare_kind(pool, clock, give_up, &kind, objects_per_type).await {
            Ok(from) => kinds.push((kind, from)),
            // An API server of another version may lack a type; whether too many are missing is judged below.
            Err(error) => drop(writeln!(log, "{}: {error}", kind.resource())),
        }
    }
    if kinds.len() < FEWEST_TYPES {
        eprint!("{log}");
        return Err(WitnessError::TooFewTypes { types: kinds.len() });
    }
    let objects = (0..objects_per_type)
        .flat_map(|index| {
            kinds.iter().map(move |(kind, _)| {
                let name = catalog::name(index);
                let path = format!("{}/{name}", kind.collection());
                (Object { resource: kind.resource(), name }, path)
            })
        })
        .collect();
    Ok(Prepared { kinds, objects, log })
}

/// Makes a type's objects; returns the resource version to watch from.
async fn prepare_kind(pool: &Pool, clock: Clock, give_up: u64, kind: &Kind, objects: usize) -> Result<u64, HttpError> {
    for index in 0..objects {
        let name = catalog::name(index);
        insist(pool, clock, give_up, &format!("{}/{name}", kind.collection()), &kind.manifest(&name)).await?;
    }
    let list = format!("{}?limit=1&labelSelector={}%3Dtrue", kind.collection(), catalog::LABEL);
    let body = pool.call_within(ATTEMPT, Method::GET, &list, None).await?;
    #[derive(Deserialize)]
    struct List {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        resource_version: String,
    }
    let list: List =
        serde_json::from_slice(&body).map_err(|error| HttpError::Transport(format!("the list is not readable: {error}")))?;
    list.metadata
        .resource_version
        .parse()
        .map_err(|error| HttpError::Transport(format!("resourceVersion {:?}: {error}", list.metadata.resource_version)))
}

/// Applies an object until the API takes it. A type that does not exist is given up at once, unless it is one of ours.
async fn insist(pool: &Pool, clock: Clock, give_up: u64, path: &str, object: &Value) -> Result<(), HttpError> {
    let query = format!("{path}?fieldManager=etcd-witness&force=true");
    loop {
        let body = ("application/apply-patch+yaml", object.to_string().into_bytes());
        let Err(error) = pool.call_within(ATTEMPT, Method::PATCH, &query, Some(body)).await.map(drop) else {
            return Ok(());
        };
        let hopeless = match &error {
            HttpError::Status { code: 404, .. } => !path.contains(catalog::OWN_GROUP),
            HttpError::Status { code: 400 | 405 | 415 | 422, .. } => true,
            HttpError::Status { .. } | HttpError::Connect(_) | HttpError::Transport(_) | HttpError::Timeout(_) => false,
        };
        if hopeless || error.is_distrust() || clock.now() > give_up {
            return Err(error);
        }
        sleep(Duration::from_millis(200)).await;
    }
}
