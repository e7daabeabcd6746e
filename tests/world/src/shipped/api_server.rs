//! A Kubernetes API as the shipped code meets it: objects with resourceVersions, conflicts, subresources, server-side apply of one
//! manager's fields, watches. It answers only while an API server of the World reaches etcd, and each write is one of etcd's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::calls::Calls;
use super::{SharedWorld, lock};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

/// How long a call takes on the way.
const LATENCY: Duration = Duration::from_millis(4);
/// How long a request waits for an etcd that does not answer.
const ETCD_WAITS: Duration = Duration::from_secs(7);

/// Name of an object: plural, namespace (empty = none), name.
type Key = (String, String, String);

/// The objects.
#[derive(Clone)]
pub(crate) struct Store(Arc<Shared>);

struct Shared {
    objects: Mutex<Objects>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Objects {
    version: u64,
    all: BTreeMap<Key, Value>,
    /// What each manager applied last, by object and manager.
    applied: BTreeMap<(Key, String), Value>,
    /// Version, type and object of each change.
    history: Vec<(u64, &'static str, Key, Value)>,
}

/// Why a request is refused.
#[derive(Debug)]
struct Refused(StatusCode, &'static str, String);

impl Store {
    pub(crate) fn new() -> Self {
        let (version, _) = watch::channel(0);
        Self(Arc::new(Shared { objects: Mutex::default(), version }))
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.0.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an object there, as somebody else would.
    pub(crate) fn put(&self, plural: &str, namespace: &str, name: &str, object: Value) {
        let mut objects = self.objects();
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let before = objects.all.get(&key).cloned();
        objects.store(key, object, before.as_ref());
        drop(objects);
        self.told();
    }

    /// An object, if it is there.
    pub(crate) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects().all.get(&(plural.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects of a kind, for a human; what is long is left out.
    pub(crate) fn show(&self, plural: &str) -> String {
        let objects = self.objects();
        let of_kind = objects.all.iter().filter(|(key, _)| key.0 == plural);
        let lines: Vec<String> = of_kind
            .map(|(key, object)| {
                let mut object = object.clone();
                object["metadata"] = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                object["spec"]["certificates"] = Value::Null;
                object["status"]["csr"] = Value::Null;
                format!("{}: {object}", key.2)
            })
            .collect();
        lines.join("\n")
    }

    /// What the Events say, in the order in which they were written.
    pub(crate) fn notes(&self) -> Vec<String> {
        let objects = self.objects();
        let events = objects.history.iter().filter(|(_, _, key, _)| key.0 == "events");
        events
            .map(|(_, _, _, e)| {
                format!("{} {}", e["reason"].as_str().unwrap_or_default(), e["note"].as_str().unwrap_or_default())
            })
            .collect()
    }

    /// How many changes there were to objects other than Leases.
    pub(crate) fn changes(&self) -> usize {
        self.objects().history.iter().filter(|(_, _, key, _)| key.0 != "leases").count()
    }

    fn told(&self) {
        let version = self.objects().version;
        self.0.version.send_replace(version);
    }
}

impl Objects {
    /// Stores a changed object; one that does not differ is not written.
    fn store(&mut self, key: Key, mut object: Value, before: Option<&Value>) -> Value {
        let spec_changed = before.is_none_or(|b| b.get("spec") != object.get("spec"));
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(key.2);
        if !key.1.is_empty() {
            metadata["namespace"] = json!(key.1);
        }
        match before {
            Some(before) => {
                for field in ["uid", "resourceVersion", "generation", "creationTimestamp"] {
                    metadata[field] = before["metadata"][field].clone();
                }
                if object == *before {
                    return object;
                }
                let generation = before["metadata"]["generation"].as_u64().unwrap_or(1);
                object["metadata"]["generation"] = json!(generation + u64::from(spec_changed));
            }
            None => {
                metadata["uid"] = json!(format!("uid-{}", self.version + 1));
                metadata["generation"] = json!(1);
                metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
        }
        let is_over = object["metadata"]["deletionTimestamp"].is_string()
            && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        if is_over && before.is_some() {
            self.remove(&key, &object);
            return object;
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.history.push((self.version, kind, key.clone(), object.clone()));
        self.all.insert(key.clone(), object.clone());
        // What is made for an owner that is gone is collected.
        let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let is_there = |owner: &Value| self.all.values().any(|o| o["metadata"]["uid"] == owner["uid"]);
        if !owners.is_empty() && !owners.iter().any(is_there) {
            self.remove(&key, &object);
        }
        object
    }

    /// It is gone, and with it what it owns.
    fn remove(&mut self, key: &Key, object: &Value) {
        let uid = object["metadata"]["uid"].clone();
        let owns = |o: &Value| o["metadata"]["ownerReferences"].as_array().is_some_and(|all| all.iter().any(|r| r["uid"] == uid));
        let gone: Vec<Key> = self.all.iter().filter(|(k, o)| *k == key || owns(o)).map(|(k, _)| k.clone()).collect();
        for key in gone {
            if let Some(object) = self.all.remove(&key) {
                self.version += 1;
                self.history.push((self.version, "DELETED", key, object));
            }
        }
    }
}

/// One process's way to the API.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) world: SharedWorld,
    pub(crate) calls: Calls,
    /// What the name of a Lease of its own ends in: two controllers then both lead.
    pub(crate) own_lease: Option<&'static str>,
}

impl tower::Service<Request<Body>> for Service {
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let asked = Asked::of(request).await?;
            let name = asked.name();
            // Leases are not what a process is killed over: they would only shift what follows.
            if asked.plural == "leases" {
                return Ok(this.answer(asked).await);
            }
            let calls = this.calls.clone();
            calls.make(|| name, this.answer(asked)).await.map_err(|_| "the answer was lost".into())
        })
    }
}

/// A request, taken apart.
struct Asked {
    method: Method,
    plural: String,
    namespace: String,
    name: String,
    is_status: bool,
    query: BTreeMap<String, String>,
    is_apply: bool,
    body: Value,
}

impl Asked {
    async fn of(request: Request<Body>) -> Result<Self, BoxError> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_matches('/').to_owned();
        let mut words = path.split('/').skip(if path.starts_with("api/") { 2 } else { 3 });
        let mut next = || words.next().unwrap_or_default().to_owned();
        let mut plural = next();
        let mut namespace = String::new();
        if plural == "namespaces" {
            namespace = next();
            plural = next();
        }
        let mut name = next();
        if plural.is_empty() {
            (plural, name, namespace) = ("namespaces".to_owned(), namespace, String::new());
        }
        let is_status = next() == "status";
        let pairs = parts.uri.query().unwrap_or_default().split('&').filter_map(|p| p.split_once('='));
        let query = pairs.map(|(k, v)| (k.to_owned(), v.replace("%3D", "=").replace("%2F", "/"))).collect();
        let content = parts.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let is_apply = content.contains("apply-patch");
        let bytes = body.collect_bytes().await?;
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? };
        Ok(Self { method: parts.method, plural, namespace, name, is_status, query, is_apply, body })
    }

    fn is_watch(&self) -> bool {
        self.query.get("watch").is_some_and(|v| v == "true")
    }

    fn name(&self) -> String {
        let verb = match (&self.method, self.is_watch()) {
            (_, true) => "?WATCH",
            (&Method::GET, _) => "?GET",
            (method, _) => method.as_str(),
        };
        let status = if self.is_status { "/status" } else { "" };
        format!("{verb} {}/{}{status}", self.plural, self.name)
    }

    fn key(&self) -> Key {
        (self.plural.clone(), self.namespace.clone(), self.name.clone())
    }

    fn selects(&self, key: &Key, object: &Value) -> bool {
        let place = key.0 == self.plural && (self.namespace.is_empty() || key.1 == self.namespace);
        let named = self.name.is_empty() || key.2 == self.name;
        let labels = self.query.get("labelSelector").and_then(|s| s.split_once('='));
        place && named && labels.is_none_or(|(k, v)| object["metadata"]["labels"][k].as_str() == Some(v))
    }
}

impl Service {
    async fn answer(self, mut asked: Asked) -> Response<AnyBody> {
        tokio::time::sleep(LATENCY).await;
        if let (true, Some(whose)) = (asked.plural == "leases", self.own_lease) {
            lease_apart(&mut asked, whose);
        }
        if !self.etcd_answers().await {
            return refuse(&Refused(StatusCode::GATEWAY_TIMEOUT, "Timeout", "etcdserver: request timed out".into()));
        }
        if asked.is_watch() {
            return self.watch(asked);
        }
        if asked.method != Method::GET && !lock(&self.world).raft.alarms.is_empty() {
            let why = "rpc error: code = DataLoss desc = etcdserver: corrupt cluster";
            return refuse(&Refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", why.into()));
        }
        let is_elsewhere = lock(&self.world).api_elsewhere;
        if asked.method != Method::GET && !is_elsewhere && lock(&self.world).write().is_none() {
            return refuse(&Refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "etcdserver: leader changed".into()));
        }
        let done = self.store.objects().carry_out(&asked);
        self.store.told();
        match done {
            Ok(value) => json_response(StatusCode::OK, &value),
            Err(refused) => refuse(&refused),
        }
    }

    async fn etcd_answers(&self) -> bool {
        let until = tokio::time::Instant::now() + ETCD_WAITS;
        loop {
            {
                let world = lock(&self.world);
                if world.api_elsewhere || world.api_answers() && world.raft.leader.is_some() {
                    return true;
                }
            }
            if tokio::time::Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn watch(self, asked: Asked) -> Response<AnyBody> {
        let number = |key: &str| asked.query.get(key).and_then(|v| v.parse::<u64>().ok());
        let from = number("resourceVersion").unwrap_or(0);
        let ends = tokio::time::Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(200));
        let version = self.store.0.version.subscribe();
        let frames = stream::unfold((self.store, asked, from, version), move |(store, asked, seen, mut version)| async move {
            loop {
                version.borrow_and_update();
                let next = {
                    let objects = store.objects();
                    let later = objects.history.iter().skip_while(|(v, ..)| *v <= seen);
                    later.filter(|(_, _, key, object)| asked.selects(key, object)).map(|(v, t, _, o)| (*v, *t, o.clone())).next()
                };
                if let Some((at, kind, object)) = next {
                    let mut line = json!({"type": kind, "object": object}).to_string();
                    line.push('\n');
                    let frame = http_body::Frame::data(Bytes::from(line));
                    return Some((Ok::<_, BoxError>(frame), (store, asked, at, version)));
                }
                tokio::select! {
                    changed = version.changed() => if changed.is_err() { return None },
                    () = tokio::time::sleep_until(ends) => return None,
                }
            }
        });
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }
}

fn lease_apart(asked: &mut Asked, whose: &str) {
    if asked.name.is_empty() {
        asked.body["metadata"]["name"] = json!(format!("etcd-operator-{whose}"));
    } else {
        asked.name = format!("{}-{whose}", asked.name);
    }
}

impl Objects {
    fn carry_out(&mut self, asked: &Asked) -> Result<Value, Refused> {
        let not_found = || Refused(StatusCode::NOT_FOUND, "NotFound", format!("{} {:?} not found", asked.plural, asked.name));
        let conflict = |why: &str| Refused(StatusCode::CONFLICT, "Conflict", why.to_owned());
        match asked.method {
            Method::GET if asked.name.is_empty() => {
                let items: Vec<&Value> = self.all.iter().filter(|(k, o)| asked.selects(k, o)).map(|(_, o)| o).collect();
                let kind = items.first().and_then(|i| i["kind"].as_str()).unwrap_or("");
                Ok(json!({"kind": format!("{kind}List"), "apiVersion": "v1",
                    "metadata": {"resourceVersion": self.version.to_string()}, "items": items}))
            }
            Method::GET => self.all.get(&asked.key()).cloned().ok_or_else(not_found),
            Method::POST => {
                let name = asked.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let name = if name.is_empty() { format!("generated-{}", self.version) } else { name };
                let key = (asked.plural.clone(), asked.namespace.clone(), name);
                if self.all.contains_key(&key) {
                    return Err(Refused(StatusCode::CONFLICT, "AlreadyExists", format!("{} exists", key.2)));
                }
                let mut object = asked.body.clone();
                if has_status(&asked.plural)
                    && let Some(fields) = object.as_object_mut()
                {
                    fields.remove("status");
                }
                Ok(self.store(key, object, None))
            }
            Method::PUT => {
                let before = self.all.get(&asked.key()).cloned().ok_or_else(not_found)?;
                let version = asked.body["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                if !version.is_empty() && before["metadata"]["resourceVersion"] != version {
                    return Err(conflict("the object has been modified"));
                }
                Ok(self.store(asked.key(), merged(&before, &asked.body, asked), Some(&before)))
            }
            Method::PATCH if asked.is_apply => {
                let before = self.all.get(&asked.key()).cloned();
                if before.is_none() && asked.is_status {
                    return Err(not_found());
                }
                let uid = asked.body["metadata"]["uid"].as_str();
                if let (Some(uid), Some(before)) = (uid, &before)
                    && before["metadata"]["uid"] != uid
                {
                    return Err(conflict("the UID differs"));
                }
                let manager = asked.query.get("fieldManager").cloned().unwrap_or_default();
                let mut object = before.clone().unwrap_or_else(|| json!({}));
                if let Some(last) = self.applied.get(&(asked.key(), manager.clone())) {
                    take_away(&mut object, last, &asked.body);
                }
                lay_over(&mut object, &asked.body);
                self.applied.insert((asked.key(), manager), asked.body.clone());
                let object = match &before {
                    Some(before) => merged(before, &object, asked),
                    None => object,
                };
                Ok(self.store(asked.key(), object, before.as_ref()))
            }
            // A merge patch that takes nothing away.
            Method::PATCH => {
                let before = self.all.get(&asked.key()).cloned().ok_or_else(not_found)?;
                let mut object = before.clone();
                lay_over(&mut object, &asked.body);
                Ok(self.store(asked.key(), merged(&before, &object, asked), Some(&before)))
            }
            _ => Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", format!("{} is not simulated", asked.method))),
        }
    }
}

fn has_status(plural: &str) -> bool {
    ["etcdclusters", "etcdmembers"].contains(&plural)
}

/// A write of the object leaves its status, one of the status leaves all else.
fn merged(before: &Value, new: &Value, asked: &Asked) -> Value {
    let (mut object, kept) = if asked.is_status { (before.clone(), new) } else { (new.clone(), before) };
    if has_status(&asked.plural)
        && let Some(fields) = object.as_object_mut()
    {
        match kept.get("status") {
            Some(status) => fields.insert("status".into(), status.clone()),
            None => fields.remove("status"),
        };
    }
    object
}

/// Fields that the manager set before and does not set any more.
fn take_away(object: &mut Value, last: &Value, new: &Value) {
    let (Some(object), Some(last)) = (object.as_object_mut(), last.as_object()) else { return };
    for (key, value) in last {
        match (value.is_object(), new.get(key)) {
            (true, Some(new)) => {
                if let Some(inner) = object.get_mut(key) {
                    take_away(inner, value, new);
                }
            }
            (_, None) => drop(object.remove(key)),
            (false, Some(_)) => {}
        }
    }
}

fn lay_over(object: &mut Value, new: &Value) {
    match (object.as_object_mut(), new.as_object()) {
        (Some(fields), Some(new)) => {
            for (key, value) in new {
                lay_over(fields.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        _ => *object = new.clone(),
    }
}

fn refuse(refused: &Refused) -> Response<AnyBody> {
    let Refused(code, reason, message) = refused;
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason,
        "code": code.as_u16(), "metadata": {}});
    json_response(*code, &status)
}

fn json_response(code: StatusCode, value: &Value) -> Response<AnyBody> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
