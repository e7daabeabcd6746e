//! The allow-list (F32): what the agent carries out at all. The API's own validation may be off, old or gone round by whoever can write
//! EtcdMembers, and each field ends in a path, an argument or a manifest that root acts on. So everything is checked here once more,
//! before anything is written to the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use etcd_operator_api::member::{
    BackupOrder, BootSpec, Certificates, EtcdMember, OrderSpec, Pod, PreflightSpec, Role, RollOut, RunSpec, Seat, Settings,
};

use crate::node::AgentArgs;
use crate::problem::{Problem, Reason};

/// Longest name: a label's value must hold it.
const NAME: usize = 63;
/// Longest ID or nonce.
const ID: usize = 63;
/// Entries in a list or map.
const ENTRIES: usize = 64;
/// Longest annotation.
const ANNOTATION: usize = 4096;
/// Client port of the cluster's own datastore (`controller/members.rs`).
pub(crate) const DATASTORE_PORT: u16 = 2379;
/// More members than any etcd has.
const MAX_MEMBERS: u16 = 64;
/// Longest PEM of one kind.
const PEM: usize = 64 * 1024;

/// Checks all of it; the first violation ends the check.
///
/// # Errors
/// `InvalidSpec`, naming the field and what is expected.
pub fn validate(member: &EtcdMember, args: &AgentArgs) -> Result<(), Problem> {
    let spec = &member.spec;
    name("spec.clusterName", &spec.cluster_name)?;
    name("spec.nodeName", &spec.node_name)?;
    name("metadata.namespace", member.metadata.namespace.as_deref().unwrap_or_default())?;
    if spec.generation < 0 || spec.lineage < 0 {
        return Err(bad("spec.generation, spec.lineage", "must not be negative"));
    }
    if !spec.nonce.is_empty() {
        id("spec.nonce", &spec.nonce)?;
    }
    if let Some(certificates) = &spec.certificates {
        check_certificates(certificates)?;
    }
    match (spec.role, &spec.seat, &spec.boot) {
        (Role::Member, Some(seat), None) => check_seat(seat, &spec.node_name, spec.generation, args)?,
        (Role::Member, None, _) => return Err(bad("spec.seat", "is needed with role Member")),
        (Role::Boot, None, Some(boot)) => check_boot(boot)?,
        (Role::Boot, _, None) => return Err(bad("spec.boot", "is needed with role Boot")),
        (Role::Candidate, None, None) => {}
        (Role::Candidate, Some(seat), None) if seat.order.run == RunSpec::Stop => {
            check_seat(seat, &spec.node_name, spec.generation, args)?;
        }
        (Role::Candidate, Some(_), None) => {
            return Err(bad("spec.seat.order.run", "must be Stop with role Candidate: the seat was given back"));
        }
        (_, Some(_), _) => return Err(bad("spec.seat", "is only for roles Member and Candidate")),
        (_, _, Some(_)) => return Err(bad("spec.boot", "is only for role Boot")),
    }
    addresses("spec.countClients", &spec.count_clients)?;
    addresses("spec.countOwn", &spec.count_own)?;
    if let Some(preflight) = &spec.preflight {
        check_preflight(preflight)?;
    }
    check_backups(&spec.backups)
}

fn check_backups(orders: &[BackupOrder]) -> Result<(), Problem> {
    if orders.len() > ENTRIES {
        return Err(bad("spec.backups", &format!("has more than {ENTRIES} entries")));
    }
    for (place, order) in orders.iter().enumerate() {
        // It names a directory.
        name(&format!("spec.backups[{place}].name"), &order.name)?;
        id(&format!("spec.backups[{place}].id"), &order.id)?;
        if order.id.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'_') {
            return Err(bad(&format!("spec.backups[{place}].id"), "must be lower-case letters, digits or '-'"));
        }
        if order.max_age_seconds < 0 || order.timeout_seconds < 1 {
            let fields = format!("spec.backups[{place}].maxAgeSeconds, timeoutSeconds");
            return Err(bad(&fields, "must not be negative, and the second at least 1"));
        }
        if orders.iter().take(place).any(|other| other.name == order.name) {
            return Err(bad(&format!("spec.backups[{place}].name"), "stands there twice"));
        }
    }
    Ok(())
}

/// Checks what a pod is made of, apart from whose image it is: that each agent has to know for itself ([`allow_image`]).
///
/// # Errors
/// `InvalidSpec`, naming the field and what is expected.
pub fn validate_pod(pod: &Pod) -> Result<(), Problem> {
    check_image(&pod.image)?;
    check_labels(&pod.labels)?;
    check_annotations(&pod.annotations)?;
    resources("spec.seat.requests", &pod.requests)?;
    resources("spec.seat.limits", &pod.limits)
}

fn check_seat(seat: &Seat, node: &str, generation: i64, args: &AgentArgs) -> Result<(), Problem> {
    validate_pod(&seat.pod)?;
    allow_image("spec.seat.image", &seat.pod.image, &args.allowed_image_prefixes)?;
    if let Some(image) = &seat.prove {
        check_image(image)?;
    }
    if let Some(RollOut { id: roll_out, .. }) = &seat.roll_out {
        id("spec.seat.rollOut.id", roll_out)?;
    }
    if let Some(snapshot) = &seat.snapshot {
        id("spec.seat.snapshot", snapshot)?;
    }
    if let Some(hash) = &seat.keeper
        && !(hash.len() == 64 && is_hex(hash))
    {
        return Err(bad("spec.seat.keeper", &format!("{} must be a SHA-256 of 64 lower-case hex digits", shown(hash))));
    }
    check_order(&seat.order, node, generation)?;
    let mut ports = BTreeSet::new();
    let listeners =
        [&seat.order.peer_url, &seat.order.client_url].map(|url| endpoint("", url).map_or(0, |address| address.port()));
    for port in [seat.probe_port, seat.order.metrics_port, seat.order.client_http_port, listeners[0], listeners[1]] {
        if port == 0 || !ports.insert(port) {
            return Err(bad(
                "spec.seat.probePort, order.metricsPort, order.clientHttpPort, order.peerURL, order.clientURL",
                &format!("ports must be 1-65535 and all different; {port} is not"),
            ));
        }
    }
    Ok(())
}

fn check_order(order: &OrderSpec, node: &str, generation: i64) -> Result<(), Problem> {
    if order.sequence < 0 {
        return Err(bad("spec.seat.order.sequence", "must not be negative"));
    }
    if order.max_learners > MAX_MEMBERS {
        return Err(bad("spec.seat.order.maxLearners", &format!("must be 0 to {MAX_MEMBERS}")));
    }
    if let Some(Settings { quota_backend_bytes, heartbeat_ms, election_ms }) = order.settings
        && (quota_backend_bytes < 0 || heartbeat_ms < 0 || election_ms < 0)
    {
        return Err(bad("spec.seat.order.settings", "must not be negative"));
    }
    name("spec.seat.order.memberName", &order.member_name)?;
    // It names a directory beside the archive and other members: exactly this one, nothing that merely looks like a name.
    if order.member_name != format!("{node}-{generation}") {
        return Err(bad("spec.seat.order.memberName", "must be <spec.nodeName>-<spec.generation>"));
    }
    if order.retire && (order.run != RunSpec::Stop || order.archive.is_none()) {
        return Err(bad("spec.seat.order.retire", "goes with run: Stop and archive"));
    }
    // Whatever the controller believes.
    if order.retire && endpoint("", &order.client_url).is_ok_and(|address| address.port() == DATASTORE_PORT) {
        return Err(bad("spec.seat.order.retire", "must not be set for the cluster's own datastore (client port 2379)"));
    }
    endpoint("spec.seat.order.peerURL", &order.peer_url)?;
    endpoint("spec.seat.order.clientURL", &order.client_url)?;
    endpoints("spec.seat.order.ask", &order.ask)?;
    if let Some(cluster) = &order.cluster_id {
        hex_id("spec.seat.order.clusterID", cluster)?;
    }
    if let Some(member) = &order.member_id {
        hex_id("spec.seat.order.memberID", member)?;
    }
    let restart = order.restart.as_ref().map(|restart| restart.id.clone());
    for (field, value) in
        [("bootstrap", &order.bootstrap), ("drain", &order.drain), ("archive", &order.archive), ("restart", &restart)]
    {
        if let Some(value) = value {
            id(&format!("spec.seat.order.{field}"), value)?;
        }
    }
    Ok(())
}

fn check_boot(boot: &BootSpec) -> Result<(), Problem> {
    endpoint("spec.boot.clientEndpoint", &boot.client_endpoint)?;
    for (field, value) in [("snapshot", &boot.snapshot), ("tombstone", &boot.tombstone)] {
        if let Some(value) = value {
            id(&format!("spec.boot.{field}"), value)?;
        }
    }
    if let Some(drain) = &boot.drain {
        id("spec.boot.drain.id", &drain.id)?;
        hex_id("spec.boot.drain.memberID", &drain.member_id)?;
        hex_id("spec.boot.drain.clusterID", &drain.cluster_id)?;
        endpoints("spec.boot.drain.ask", &drain.ask)?;
        if drain.ask.is_empty() {
            return Err(bad("spec.boot.drain.ask", "must name a member besides boot: nobody else can confirm the removal"));
        }
        if drain.ask.contains(&boot.client_endpoint) {
            return Err(bad("spec.boot.drain.ask", "must not name boot itself"));
        }
    }
    Ok(())
}

fn check_preflight(preflight: &PreflightSpec) -> Result<(), Problem> {
    id("spec.preflight.id", &preflight.id)?;
    if let Some(image) = &preflight.image {
        check_image(image)?;
    }
    addresses("spec.preflight.ports", &preflight.ports)?;
    endpoints("spec.preflight.seats", &preflight.seats)?;
    addresses("spec.preflight.reach", &preflight.reach)
}

fn check_certificates(certificates: &Certificates) -> Result<(), Problem> {
    let all = [
        ("ca", Some(&certificates.ca)),
        ("peer", certificates.peer.as_ref()),
        ("server", certificates.server.as_ref()),
        ("client", Some(&certificates.client)),
    ];
    for (field, pem) in all {
        let Some(pem) = pem else { continue };
        let clean = pem.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte));
        if pem.len() > PEM || !clean || !pem.trim_start().starts_with("-----BEGIN CERTIFICATE-----") {
            return Err(bad(&format!("spec.certificates.{field}"), "must be a certificate as PEM, at most 64 KiB"));
        }
    }
    Ok(())
}

fn check_image(image: &str) -> Result<(), Problem> {
    let field = "spec.seat.image";
    let clean = image.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"./:@_-".contains(&byte));
    if image.is_empty() || image.len() > 255 || !clean || image.contains("..") || image.contains("//") {
        return Err(bad(field, "must be repository:tag of lower-case letters, digits and ./:@_-"));
    }
    Ok(())
}

/// Whether this agent allows an image.
pub(crate) fn allow_image(field: &str, image: &str, allowed: &[String]) -> Result<(), Problem> {
    let permitted = allowed.iter().any(|prefix| match image.strip_prefix(prefix.as_str()) {
        // "registry/etcd" must not allow "registry/etcd-of-somebody-else".
        Some(rest) => prefix.ends_with(['/', ':', '@']) || rest.starts_with([':', '@']),
        None => false,
    });
    if permitted {
        return Ok(());
    }
    Err(bad(
        field,
        &format!(
            "{} is of no repository that this agent allows ({}); see the agent's flag --allowed-image",
            shown(image),
            allowed.join(", ")
        ),
    ))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Problem> {
    let field = "spec.seat.labels";
    count(field, labels.len())?;
    for (key, value) in labels {
        label_key(field, key)?;
        if !value.is_empty() {
            label_word(field, value)?;
        }
    }
    Ok(())
}

fn check_annotations(annotations: &BTreeMap<String, String>) -> Result<(), Problem> {
    let field = "spec.seat.annotations";
    count(field, annotations.len())?;
    for (key, value) in annotations {
        label_key(field, key)?;
        if value.len() > ANNOTATION || value.chars().any(char::is_control) {
            return Err(bad(
                field,
                &format!("the value of {key:?} must have no control characters and at most {ANNOTATION} bytes"),
            ));
        }
    }
    Ok(())
}

/// Keys as Kubernetes allows them; the prefixes that mean something to the kubelet or to us are refused.
fn label_key(field: &str, key: &str) -> Result<(), Problem> {
    let (prefix, word) = match key.split_once('/') {
        Some((prefix, word)) => (Some(prefix), word),
        None => (None, key),
    };
    label_word(field, word)?;
    let Some(prefix) = prefix else { return Ok(()) };
    if prefix.len() > 253 || !is_name(prefix) {
        return Err(bad(field, &format!("{} is no valid key", shown(key))));
    }
    let reserved = ["etcd.database.coreos.com", "app.kubernetes.io", "kubernetes.io"].contains(&prefix)
        || prefix.ends_with(".alpha.kubernetes.io")
        || prefix.ends_with(".beta.kubernetes.io");
    if reserved {
        return Err(bad(field, &format!("keys below {prefix}/ are set by the operator and the kubelet only")));
    }
    Ok(())
}

fn label_word(field: &str, word: &str) -> Result<(), Problem> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let bytes = word.as_bytes();
    if word.len() <= NAME && word.bytes().all(inner) && ends(bytes.first().copied()) && ends(bytes.last().copied()) {
        return Ok(());
    }
    Err(bad(field, &format!("{} is no valid word: letters, digits and -_. between them, at most {NAME}", shown(word))))
}

fn resources(field: &str, quantities: &BTreeMap<String, String>) -> Result<(), Problem> {
    for (resource, quantity) in quantities {
        if !["cpu", "memory"].contains(&resource.as_str()) {
            return Err(bad(field, "only cpu and memory can be set"));
        }
        let number = quantity.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit = quantity.strip_prefix(number).unwrap_or_default();
        let digits = number.split_once('.').map_or_else(|| vec![number], |(whole, part)| vec![whole, part]);
        let good = quantity.len() <= 24
            && digits.iter().all(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
            && ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&unit);
        if !good {
            return Err(bad(field, &format!("{} of {resource} is no quantity such as 250m or 512Mi", shown(quantity))));
        }
    }
    Ok(())
}

fn addresses(field: &str, list: &[String]) -> Result<(), Problem> {
    count(field, list.len())?;
    for entry in list {
        let address: Result<SocketAddr, _> = entry.parse();
        if !address.is_ok_and(|address| address.port() != 0) {
            return Err(bad(field, &format!("{} is not <IP>:<port>", shown(entry))));
        }
    }
    Ok(())
}

fn endpoints(field: &str, list: &[String]) -> Result<(), Problem> {
    count(field, list.len())?;
    list.iter().try_for_each(|url| endpoint(field, url).map(drop))
}

/// `https://<IP>:<port>` and nothing else: no name (it needs DNS), no path, no user.
pub(crate) fn endpoint(field: &str, url: &str) -> Result<SocketAddr, Problem> {
    let address: Option<SocketAddr> = url.strip_prefix("https://").and_then(|rest| rest.parse().ok());
    match address {
        Some(address) if address.port() != 0 && !is_nowhere(address.ip()) => Ok(address),
        _ => Err(bad(field, &format!("{} is not https://<IP>:<port>", shown(url)))),
    }
}

fn is_nowhere(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast()
}

fn name(field: &str, value: &str) -> Result<(), Problem> {
    if value.len() <= NAME && is_name(value) {
        return Ok(());
    }
    Err(bad(
        field,
        &format!(
            "{} must be lower-case letters, digits, '-' and '.', begin and end with a letter or digit, and have at most {NAME} characters",
            shown(value)
        ),
    ))
}

fn is_name(value: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = value.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|byte| plain(byte) || b"-.".contains(byte))
        && !value.contains("..")
}

/// IDs become parts of file names.
fn id(field: &str, value: &str) -> Result<(), Problem> {
    let clean = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !value.is_empty() && value.len() <= ID && clean {
        return Ok(());
    }
    Err(bad(field, &format!("{} must be 1-{ID} letters, digits, '-' or '_'", shown(value))))
}

fn hex_id(field: &str, value: &str) -> Result<(), Problem> {
    if !value.is_empty() && value.len() <= 16 && is_hex(value) {
        return Ok(());
    }
    Err(bad(field, &format!("{} must be 1-16 lower-case hex digits", shown(value))))
}

fn is_hex(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn count(field: &str, entries: usize) -> Result<(), Problem> {
    if entries <= ENTRIES { Ok(()) } else { Err(bad(field, &format!("has {entries} entries, at most {ENTRIES} are allowed"))) }
}

/// An enemy's string, safe to print: escaped and cut.
fn shown(value: &str) -> String {
    let text: String = value.chars().take(80).collect();
    if value.chars().count() > 80 { format!("{text:?}...") } else { format!("{text:?}") }
}

fn bad(field: &str, why: &str) -> Problem {
    Problem::new(
        Reason::InvalidSpec,
        format!("{field}: {why}; nothing was written to the node, correct the EtcdMember (or the EtcdCluster it is made from)"),
    )
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
