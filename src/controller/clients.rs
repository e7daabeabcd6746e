//! What the clients of a cluster without selfHosted need: a Service with the ready voters behind it, and a certificate. Those of the datastore are API servers, which
//! get along without a Service that only they could serve.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::endpoints::ready_voters;
use super::memory::Memory;
use super::observe::View;
use super::{Context, ControllerError, api_error, members, readdress};
use crate::pki::{self, Ca};

/// How often they are applied anew, ms.
const LOOK_MS: u64 = 300_000;
/// Client port of the Service, whatever the members' is.
const SERVICE_PORT: i32 = 2379;

/// Name of Service, EndpointSlice and Secret.
pub(crate) fn name(view: &View) -> String {
    format!("{}-client", view.name())
}

/// What a client may call the members by, besides their addresses.
pub(crate) fn dns_names(view: &View) -> Vec<String> {
    if !view.is_standalone() {
        return Vec::new();
    }
    let (name, namespace) = (name(view), view.cluster.namespace().unwrap_or_default());
    vec![
        name.clone(),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.cluster.local"),
    ]
}

fn metadata(view: &View, labels: &[(&str, &str)]) -> ObjectMeta {
    let own = [(members::CLUSTER_LABEL.to_owned(), view.name())];
    let more = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    ObjectMeta {
        name: Some(name(view)),
        labels: Some(own.into_iter().chain(more).collect()),
        owner_references: owners(view),
        ..ObjectMeta::default()
    }
}

/// What goes with its EtcdCluster. The datastore's goes with nothing.
pub(crate) fn owners(view: &View) -> Option<Vec<OwnerReference>> {
    view.cluster.owner_ref(&()).filter(|_| view.is_standalone()).map(|owner| vec![owner])
}

/// Name of the CA's Secret where the spec names none. No cluster's is the datastore's `etcd-ca`, and no two clusters have the same.
pub(crate) fn ca_name(cluster: &str) -> String {
    format!("{cluster}-etcd-ca")
}

/// A CA of its own, where the spec names none, there is none, and nothing has begun. It stays when the cluster goes: so does its data, in the archives.
pub(crate) async fn ensure_ca(context: &Context, view: &View) -> Result<usize, ControllerError> {
    let is_named = view.cluster.spec.tls.as_ref().is_some_and(|tls| tls.ca.is_some());
    if view.ca.is_ok() || is_named || view.status.cluster_id.is_some() || !view.seats().is_empty() {
        return Ok(0);
    }
    let name = ca_name(&view.name());
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &context.args.namespace);
    if api.get_opt(&name).await.map_err(api_error("reading the CA's Secret"))?.is_some() {
        return Ok(0);
    }
    let (cert, key) = Ca::generate(&name, view.now_ms)?;
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some([(members::CLUSTER_LABEL.to_owned(), view.name())].into()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data([("tls.crt", cert), ("tls.key", key)])),
        ..Secret::default()
    };
    match api.create(&PostParams::default(), &secret).await {
        // Another replica's.
        Err(error) if members::is_conflict(&error) => Ok(1),
        made => made.map(|_| 1).map_err(api_error("creating the CA's Secret")),
    }
}

fn data<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, ByteString> {
    pairs.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()
}

/// Applies them where they changed, and now and then in case that somebody changed them.
pub(crate) async fn publish(context: &Context, view: &View, memory: &mut Memory) -> Result<(), ControllerError> {
    let (Ok(ca), true) = (&view.ca, view.is_standalone()) else { return Ok(()) };
    let served = (view.ports().client, ready_voters(view));
    let is_as_known = |(known, at): &(_, u64)| *known == served && view.now_ms.saturating_sub(*at) < LOOK_MS;
    if served.1.is_empty() || memory.served.as_ref().is_some_and(is_as_known) {
        return Ok(());
    }
    let (client, namespace) = (&context.client, &context.args.namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let there = own(&secrets, view, "Secret").await?;
    if let Some(secret) = secret(view, ca, there)? {
        apply(&secrets, &secret).await?;
    }
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    own(&services, view, "Service").await?;
    apply(&services, &service(view)).await?;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    own(&slices, view, "EndpointSlice").await?;
    apply(&slices, &slice(view, &served.1)).await?;
    memory.served = Some((served, view.now_ms));
    Ok(())
}

/// What is there by that name, if it is this cluster's. A stranger's is left alone.
async fn own<K>(api: &Api<K>, view: &View, kind: &str) -> Result<Option<K>, ControllerError>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let name = name(view);
    match api.get_opt(&name).await.map_err(api_error("reading what clients need"))? {
        Some(object) if !members::is_of(&object, &view.name()) => Err(ControllerError::Object(format!(
            "{kind} {name} is there and is not this cluster's: delete it, and it is made anew for the cluster's clients"
        ))),
        there => Ok(there),
    }
}

async fn apply<K>(api: &Api<K>, object: &K) -> Result<(), ControllerError>
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    let params = PatchParams::apply("etcd-operator").force();
    let patch = Patch::Apply(object);
    api.patch(&object.name_any(), &params, &patch).await.map(drop).map_err(api_error("publishing what clients need"))
}

fn service(view: &View) -> Service {
    let port =
        ServicePort { name: Some("client".into()), port: SERVICE_PORT, protocol: Some("TCP".into()), ..ServicePort::default() };
    Service {
        metadata: metadata(view, &[]),
        // Without a selector: the slice is ours.
        spec: Some(ServiceSpec { ports: Some(vec![port]), type_: Some("ClusterIP".into()), ..ServiceSpec::default() }),
        ..Service::default()
    }
}

fn slice(view: &View, urls: &[String]) -> EndpointSlice {
    let addresses: Vec<String> = urls
        .iter()
        .filter_map(|url| readdress::parse(url))
        .filter(std::net::SocketAddr::is_ipv4)
        .map(|address| address.ip().to_string())
        .collect();
    let ready = EndpointConditions { ready: Some(true), ..EndpointConditions::default() };
    EndpointSlice {
        metadata: metadata(
            view,
            &[("kubernetes.io/service-name", &name(view)), ("endpointslice.kubernetes.io/managed-by", "etcd-operator")],
        ),
        address_type: "IPv4".into(),
        endpoints: addresses
            .into_iter()
            .map(|address| Endpoint { addresses: vec![address], conditions: Some(ready.clone()), ..Endpoint::default() })
            .collect(),
        ports: Some(vec![EndpointPort {
            name: Some("client".into()),
            port: Some(i32::from(view.ports().client)),
            protocol: Some("TCP".into()),
            ..EndpointPort::default()
        }]),
    }
}

/// A client certificate for whoever may read this Secret: a new one when it is due, or of another CA.
fn secret(view: &View, ca: &Ca, there: Option<Secret>) -> Result<Option<Secret>, ControllerError> {
    let there = there.and_then(|s| s.data).unwrap_or_default();
    let text = |key: &str| there.get(key).map(|v| String::from_utf8_lossy(&v.0).into_owned()).unwrap_or_default();
    if text("ca.crt") == ca.pem() && !pki::is_due(&text("tls.crt"), view.now_ms) {
        return Ok(None);
    }
    let (cert, key) = ca.client(&name(view), view.now_ms)?;
    Ok(Some(Secret {
        metadata: metadata(view, &[]),
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data([("ca.crt", ca.pem().to_owned()), ("tls.crt", cert), ("tls.key", key)])),
        ..Secret::default()
    }))
}
