//! The published list of client endpoints: ready voters only, never empty (design D8).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};

use etcd_operator_etcd::client::MemberStatus;

use super::memory::Memory;
use super::observe::View;
use super::{Context, ControllerError, api_error, clients, members};

/// Client URLs of the voters that answer and know a leader, boot among them as long as it is listed, by IP.
pub(crate) fn ready_voters(view: &View) -> Vec<String> {
    let Ok(reading) = &view.etcd else { return view.status.endpoints.clone() };
    let mut urls: Vec<String> = reading
        .members
        .iter()
        .filter(|(m, s)| !m.is_learner && s.as_ref().is_some_and(MemberStatus::is_healthy))
        .filter_map(|(m, _)| m.client_urls.iter().find(|u| !u.contains("//127.")).cloned())
        .collect();
    urls.sort();
    if urls.is_empty() { view.status.endpoints.clone() } else { urls }
}

/// Publishes it as ConfigMap `<cluster>-endpoints`, if it changed, and once in a process's life, in case that somebody changed the
/// ConfigMap. Not before a seat is given: a check alone leaves nothing behind.
pub(crate) async fn publish(context: &Context, view: &View, memory: &mut Memory) -> Result<(), ControllerError> {
    let urls = ready_voters(view);
    if urls.is_empty() || urls == memory.published || view.seats().is_empty() {
        return Ok(());
    }
    let name = format!("{}-endpoints", view.name());
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(BTreeMap::from([(members::CLUSTER_LABEL.to_owned(), view.name())])),
            owner_references: clients::owners(view),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("etcd-servers".to_owned(), urls.join(","))])),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.args.namespace);
    let params = PatchParams::apply("etcd-operator").force();
    api.patch(&name, &params, &Patch::Apply(&map)).await.map_err(api_error("publishing the endpoints"))?;
    memory.published = urls;
    Ok(())
}
