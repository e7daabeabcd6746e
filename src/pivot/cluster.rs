//! The EtcdCluster that the command posts, adopts, holds or takes back.

use etcd_operator_api::cluster::{CaRef, EtcdCluster, EtcdClusterSpec, SelfHosted, StopBoot, TlsPolicy};
use etcd_operator_api::member::{EtcdMember, Role};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::outcome::{End, Judge};
use super::{PivotArgs, PivotError};

/// Members, unless `--size` says otherwise.
const DEFAULT_SIZE: i32 = 3;

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
    if let Some(size) = args.size.filter(|size| !(1..=9).contains(size)) {
        return usage(format!("--size {size}: must be 1 to 9 (odd is best)"));
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
    differing(args, &found.spec)?;
    if args.check && !hosted.preflight_only {
        return Err(PivotError::Refused(format!(
            "EtcdCluster {} exists already; --check posts one of its own: look at `kubectl -n {} get etcd {}` instead",
            args.name, args.namespace, args.name
        )));
    }
    // Run again after a timeout or a check: go on.
    let mut hosted = json!({"holdBootRemoval": false, "preflightOnly": args.check, "abort": args.abort});
    if let (Some(stop), Some(fields)) = (stop_boot(args), hosted.as_object_mut()) {
        fields.insert("stopBoot".into(), json!(stop));
    }
    let patch = json!({"spec": {"selfHosted": hosted}});
    let patched = api.patch(&args.name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(refused_or_silent)?;
    Ok(patched.metadata.generation.unwrap_or(0))
}

fn stop_boot(args: &PivotArgs) -> Option<StopBoot> {
    args.boot_command.as_ref().map(|_| StopBoot::Command)
}

/// Whether boot is on no node of the cluster and nothing says how to stop it. `None` = not known yet.
pub(super) async fn is_removed_alive(client: Client, args: &PivotArgs, generation: i64, cluster: &EtcdCluster) -> Option<bool> {
    let hosted = cluster.spec.self_hosted.as_ref()?;
    let status = cluster.status.as_ref().filter(|status| status.observed_generation >= generation)?;
    if args.abort || hosted.stop_boot.is_some() || hosted.skip_boot_member_removal || Judge::is_boot_removed(cluster) {
        return Some(false);
    }
    // The controller makes boot's EtcdMember, if any, in the pass in which it writes boot's ID.
    status.pivot.as_ref()?.boot_member_id.as_ref()?;
    let members: Api<EtcdMember> = Api::namespaced(client, &args.namespace);
    let found = members.get_opt(&format!("{}-boot", args.name)).await.ok()?;
    Some(found.is_none())
}

/// A flag that differs from what the EtcdCluster has must not be dropped in silence.
fn differing(args: &PivotArgs, spec: &EtcdClusterSpec) -> Result<(), PivotError> {
    let size =
        args.size.filter(|size| *size != spec.size).map(|size| ("--size", "spec.size", spec.size.to_string(), size.to_string()));
    let plain = |version: &String| version.trim_start_matches('v').to_owned();
    let version = args.etcd_version.as_ref().map(plain).filter(|version| version != spec.plain_version());
    let version = version.map(|version| ("--etcd-version", "spec.version", spec.version.clone(), format!("\"{version}\"")));
    let repository = args.repository.clone().filter(|repository| *repository != spec.repository);
    let repository = repository.map(|own| ("--repository", "spec.repository", spec.repository.clone(), format!("\"{own}\"")));
    if let Some((flag, field, has, wanted)) = size.or(version).or(repository) {
        let path = field.trim_start_matches("spec.");
        return Err(PivotError::Refused(format!(
            "EtcdCluster {name} exists with {field} {has:?}, so {flag} has no effect; leave it out, or change the object: kubectl -n {namespace} patch etcd {name} --type=merge -p '{{\"spec\":{{\"{path}\":{wanted}}}}}'",
            name = args.name,
            namespace = args.namespace,
        )));
    }
    match &args.ca_secret {
        Some(secret) if secret != spec.ca_secret() => Err(PivotError::Refused(format!(
            "EtcdCluster {} exists with CA Secret {:?}, which cannot be changed, so --ca-secret has no effect: leave it out",
            args.name,
            spec.ca_secret()
        ))),
        _ => Ok(()),
    }
}

/// What the agents found, a line per check.
pub(super) async fn checks(args: &PivotArgs, client: Client) -> Result<Vec<String>, PivotError> {
    let members: Api<EtcdMember> = Api::namespaced(client, &args.namespace);
    let selector = format!("etcd.database.coreos.com/cluster={}", args.name);
    let list = members.list(&ListParams::default().labels(&selector)).await.map_err(refused_or_silent)?;
    let mut lines: Vec<String> = list
        .items
        .iter()
        .flat_map(|member| {
            let checks =
                member.status.as_ref().and_then(|s| s.preflight.as_ref()).map(|p| p.checks.as_slice()).unwrap_or_default();
            checks.iter().map(|check| {
                format!("{} {}: {}: {}", member.spec.node_name, if check.ok { "ok" } else { "FAILED" }, check.name, check.message)
            })
        })
        .collect();
    lines.sort();
    lines.dedup();
    Ok(lines)
}

fn object(args: &PivotArgs, endpoint: &str) -> EtcdCluster {
    let hosted = SelfHosted {
        boot_member_client_endpoint: endpoint.to_owned(),
        preflight_only: args.check,
        stop_boot: stop_boot(args),
        ..SelfHosted::default()
    };
    let tls = args.ca_secret.clone().map(|secret_name| TlsPolicy { ca: Some(CaRef { secret_name }), static_: None });
    let spec = EtcdClusterSpec {
        size: args.size.unwrap_or(DEFAULT_SIZE),
        // As the API's own default; kept in one place, the CRD.
        version: args.etcd_version.clone().unwrap_or_else(etcd_operator_api::cluster::default_version),
        repository: args.repository.clone().unwrap_or_default(),
        paused: false,
        pod: None,
        etcd: None,
        first_port: None,
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

/// After a timeout: boot stays until somebody runs the command again. A removal that was begun before the hold takes its course.
pub(super) async fn hold(api: &Api<EtcdCluster>, args: &PivotArgs, waiting_for: String) -> End {
    let patch = json!({"spec": {"selfHosted": {"holdBootRemoval": true}}});
    match api.patch(&args.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(cluster) if Judge::is_boot_stopped(&cluster) => End::TimedOutBootStopped { waiting_for },
        Ok(_) => End::TimedOutBootInCharge { waiting_for, is_held: true },
        Err(error) => End::TimedOutBootInCharge {
            waiting_for: format!("{waiting_for} (holdBootRemoval could not be set: {error})"),
            is_held: false,
        },
    }
}

fn refused_or_silent(error: kube::Error) -> PivotError {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            PivotError::Refused(format!("{}; is the operator installed (kubectl apply -k deploy)?", status.message))
        }
        // Nobody there, nobody that knows us, or too busy: no word about what was asked for.
        kube::Error::Api(status) if [401, 429].contains(&status.code) || status.code >= 500 => {
            PivotError::Api(status.message.clone())
        }
        kube::Error::Api(status) => PivotError::Refused(status.message.clone()),
        other => PivotError::Api(other.to_string()),
    }
}
