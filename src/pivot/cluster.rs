//! The EtcdCluster that the command posts, adopts, holds or takes back.

use etcd_operator_api::cluster::{CaRef, EtcdCluster, EtcdClusterSpec, SelfHosted, TlsPolicy};
use etcd_operator_api::member::{EtcdMember, Role};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::{PivotArgs, PivotError};

/// What can be said without the API.
pub(super) fn check_arguments(args: &PivotArgs) -> Result<(), PivotError> {
    let usage = |text: String| Err(PivotError::Usage(text));
    let good = |name: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(name.chars().next())
            && edge(name.chars().last())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    for (flag, name) in [("--name", &args.name), ("--namespace", &args.namespace)] {
        if !good(name) || name.len() > 40 {
            return usage(format!("{flag} {name:?}: at most 40 lower case letters, digits and '-'"));
        }
    }
    if !(1..=9).contains(&args.size) {
        return usage(format!("--size {}: must be 1 to 9 (odd is best)", args.size));
    }
    if let Some(version) = &args.etcd_version
        && semver::Version::parse(version.strip_prefix('v').unwrap_or(version)).is_err()
    {
        return usage(format!("--etcd-version {version:?}: must be a version of etcd such as 3.6.16"));
    }
    if let Some(endpoint) = &args.boot_endpoint {
        let address = endpoint.strip_prefix("https://").and_then(|a| a.parse::<std::net::SocketAddr>().ok());
        if address.is_none() {
            return usage(format!("--boot-endpoint {endpoint:?}: must be https://<IP>:<port>; plain http and names are refused"));
        }
    }
    Ok(())
}

/// Posts the EtcdCluster, or adopts the one that is there. Returns the generation whose status counts.
pub(super) async fn post(api: &Api<EtcdCluster>, args: &PivotArgs) -> Result<i64, PivotError> {
    let found = api.get_opt(&args.name).await.map_err(refused_or_silent)?;
    let Some(found) = found else {
        if args.abort {
            return Err(PivotError::Refused(format!("there is no EtcdCluster {} to abort", args.name)));
        }
        let Some(endpoint) = &args.boot_endpoint else {
            return Err(PivotError::Usage(format!("--boot-endpoint: needed, as there is no EtcdCluster {} yet", args.name)));
        };
        let created = api.create(&PostParams::default(), &object(args, endpoint)).await.map_err(refused_or_silent)?;
        return Ok(created.metadata.generation.unwrap_or(0));
    };
    adopt(api, args, &found).await
}

async fn adopt(api: &Api<EtcdCluster>, args: &PivotArgs, found: &EtcdCluster) -> Result<i64, PivotError> {
    let Some(hosted) = &found.spec.self_hosted else {
        return Err(PivotError::Refused(format!(
            "EtcdCluster {} exists and has no spec.selfHosted: it is not this cluster's datastore",
            args.name
        )));
    };
    if let Some(endpoint) = &args.boot_endpoint
        && *endpoint != hosted.boot_member_client_endpoint
    {
        return Err(PivotError::Refused(format!(
            "EtcdCluster {} exists with boot endpoint {}, not {endpoint}: use that one or another --name",
            args.name, hosted.boot_member_client_endpoint
        )));
    }
    if args.check && !hosted.preflight_only {
        return Err(PivotError::Refused(format!(
            "EtcdCluster {} exists already; --check posts one of its own: look at `kubectl -n {} get etcd {}` instead",
            args.name, args.namespace, args.name
        )));
    }
    // Run again after a timeout or a check: go on.
    let patch = json!({"spec": {"selfHosted": {"holdBootRemoval": false, "preflightOnly": args.check, "abort": args.abort}}});
    let patched = api.patch(&args.name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(refused_or_silent)?;
    Ok(patched.metadata.generation.unwrap_or(0))
}

fn object(args: &PivotArgs, endpoint: &str) -> EtcdCluster {
    let hosted =
        SelfHosted { boot_member_client_endpoint: endpoint.to_owned(), preflight_only: args.check, ..SelfHosted::default() };
    let tls = args.ca_secret.clone().map(|secret_name| TlsPolicy { ca: Some(CaRef { secret_name }), static_: None });
    let spec = EtcdClusterSpec {
        size: args.size,
        // As the API's own default; kept in one place, the CRD.
        version: args.etcd_version.clone().unwrap_or_else(etcd_operator_api::cluster::default_version),
        repository: args.repository.clone().unwrap_or_default(),
        paused: false,
        pod: None,
        self_hosted: Some(hosted),
        tls,
        backup: None,
        restore: None,
    };
    EtcdCluster {
        metadata: ObjectMeta { name: Some(args.name.clone()), namespace: Some(args.namespace.clone()), ..ObjectMeta::default() },
        spec,
        status: None,
    }
}

/// After a check: the EtcdCluster goes, and the EtcdMembers that carry no member with it.
pub(super) async fn take_back(api: &Api<EtcdCluster>, args: &PivotArgs, client: Client) -> Result<(), PivotError> {
    api.delete(&args.name, &DeleteParams::default()).await.map_err(refused_or_silent)?;
    let members: Api<EtcdMember> = Api::namespaced(client, &args.namespace);
    let selector = format!("etcd.database.coreos.com/cluster={}", args.name);
    let list = members.list(&ListParams::default().labels(&selector)).await.map_err(refused_or_silent)?;
    for member in list.items.iter().filter(|m| m.spec.role != Role::Member) {
        members.delete(&member.name_any(), &DeleteParams::default()).await.map_err(refused_or_silent)?;
    }
    Ok(())
}

/// After a timeout: boot stays until somebody runs the command again.
pub(super) async fn hold(api: &Api<EtcdCluster>, args: &PivotArgs) -> Result<(), PivotError> {
    let patch = json!({"spec": {"selfHosted": {"holdBootRemoval": true}}});
    api.patch(&args.name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(refused_or_silent).map(drop)
}

fn refused_or_silent(error: kube::Error) -> PivotError {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            PivotError::Refused(format!("{}; is the operator installed (kubectl apply -k deploy)?", status.message))
        }
        kube::Error::Api(status) => PivotError::Refused(status.message.clone()),
        other => PivotError::Api(other.to_string()),
    }
}
