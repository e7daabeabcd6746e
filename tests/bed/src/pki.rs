//! Keys and certificates: a CA for the cluster, another for etcd, all ECDSA P-256.

use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use crate::error::{At, Error, Result};
use crate::layout::{LB_IP, Layout, Node, Options, SERVICE_IP, write};

/// Who a certificate is for.
pub struct Subject<'a> {
    /// Common name: the user name for clients.
    pub name: &'a str,
    /// Organization: the group for clients.
    pub group: Option<&'a str>,
    /// IP addresses and DNS names of a server; empty for clients.
    pub sans: &'a [&'a str],
}

/// A certificate authority on disk: `<name>.crt` and `<name>.key`.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Makes all that is not specific to a node, in `pki/`: both CAs, service account keys, the admin's and etcd's clients.
///
/// # Errors
/// If a file cannot be written.
pub fn create(layout: &Layout) -> Result<()> {
    let dir = layout.path("pki");
    std::fs::create_dir_all(&dir).at(&dir)?;
    create_authority(&dir, "ca", "etcdbed cluster CA")?;
    create_authority(&dir, "etcd-ca", "etcdbed etcd CA")?;
    let key = KeyPair::generate()?;
    write(&dir.join("sa.key"), key.serialize_pem(), 0o600)?;
    write(&dir.join("sa.pub"), key.public_key_pem(), 0o644)?;

    let cluster = Authority::load(&dir, "ca")?;
    let client = |name: &'static str, group| Subject { name, group, sans: &[] };
    cluster.issue(&dir, "admin", &client("kubernetes-admin", Some("system:masters")))?;
    cluster.issue(&dir, "controller-manager", &client("system:kube-controller-manager", None))?;
    cluster.issue(&dir, "scheduler", &client("system:kube-scheduler", None))?;
    cluster.issue(&dir, "kube-proxy", &client("system:kube-proxy", None))?;
    cluster.issue(&dir, "apiserver-kubelet-client", &client("kube-apiserver-kubelet-client", Some("system:masters")))?;
    let etcd = Authority::load(&dir, "etcd-ca")?;
    etcd.issue(&dir, "apiserver-etcd-client", &client("kube-apiserver-etcd-client", None))?;
    // For etcdctl and the witness on the host.
    etcd.issue(&dir, "etcd-client", &client("bed-etcd-client", None))
}

/// Puts a node's keys on its disk: `/etc/kubernetes/pki` as kubeadm lays it out.
///
/// # Errors
/// If a file cannot be written.
pub fn create_for_node(layout: &Layout, options: &Options, node: &Node) -> Result<()> {
    let shared = layout.path("pki");
    let pki = layout.disk(node, "etc/kubernetes/pki");
    std::fs::create_dir_all(pki.join("etcd")).at(&pki)?;
    let copy = |from: &str, to: &str, mode| -> Result<()> {
        let source = shared.join(from);
        write(&pki.join(to), std::fs::read(&source).at(&source)?, mode)
    };
    copy("ca.crt", "ca.crt", 0o644)?;
    copy("etcd-ca.crt", "etcd/ca.crt", 0o644)?;
    copy("sa.pub", "sa.pub", 0o644)?;
    copy("sa.key", "sa.key", 0o600)?;
    for client in ["controller-manager", "scheduler", "kube-proxy", "apiserver-kubelet-client", "apiserver-etcd-client"] {
        copy(&format!("{client}.crt"), &format!("{client}.crt"), 0o644)?;
        copy(&format!("{client}.key"), &format!("{client}.key"), 0o600)?;
    }

    let ip = node.ip();
    let cluster = Authority::load(&shared, "ca")?;
    let user = format!("system:node:{}", node.name);
    cluster.issue(&pki, "kubelet-client", &Subject { name: &user, group: Some("system:nodes"), sans: &[] })?;
    cluster.issue(&pki, "kubelet", &Subject { name: &user, group: None, sans: &[&ip, &node.name, "127.0.0.1"] })?;
    let nodes: Vec<_> = options.all().iter().map(Node::ip).collect();
    let mut sans = vec![
        LB_IP,
        SERVICE_IP,
        "127.0.0.1",
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    sans.extend(nodes.iter().map(String::as_str));
    cluster.issue(&pki, "apiserver", &Subject { name: "kube-apiserver", group: None, sans: &sans })?;

    // As kubeadm has it; boot etcd uses them, and a pivot by hand. The operator makes its own.
    let etcd = Authority::load(&shared, "etcd-ca")?;
    let sans = [ip.as_str(), "127.0.0.1", "localhost", &node.name];
    for file in ["server", "peer"] {
        etcd.issue(&pki.join("etcd"), file, &Subject { name: &node.name, group: None, sans: &sans })?;
    }
    Ok(())
}

fn create_authority(dir: &Path, file: &str, name: &str) -> Result<()> {
    let mut params = base(name, None)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write(&dir.join(format!("{file}.crt")), certificate.pem(), 0o644)?;
    write(&dir.join(format!("{file}.key")), key.serialize_pem(), 0o600)
}

impl Authority {
    /// Reads a CA back.
    ///
    /// # Errors
    /// If it is not there or not readable.
    pub fn load(dir: &Path, file: &str) -> Result<Self> {
        let read = |suffix: &str| {
            let path = dir.join(format!("{file}.{suffix}"));
            std::fs::read_to_string(&path).at(&path)
        };
        let certificate = read("crt")?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&read("key")?)?)?;
        Ok(Self { certificate, issuer })
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Writes `<file>.crt` and `<file>.key`. Both usages are set: etcd's servers are each other's clients.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn issue(&self, dir: &Path, file: &str, subject: &Subject<'_>) -> Result<()> {
        let mut params = base(subject.name, subject.group)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !subject.sans.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        for san in subject.sans {
            params.subject_alt_names.push(match san.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName((*san).try_into()?),
            });
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&dir.join(format!("{file}.crt")), certificate.pem(), 0o644)?;
        write(&dir.join(format!("{file}.key")), key.serialize_pem(), 0o600)
    }
}

fn base(name: &str, group: Option<&str>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    let today = days_since_epoch()?;
    let date = |days| {
        let (year, month, day) = civil(days);
        rcgen::date_time_ymd(year, month, day)
    };
    params.not_before = date(today - 1);
    params.not_after = date(today + 3650);
    Ok(params)
}

fn days_since_epoch() -> Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(|e| Error::State(format!("the clock stands before 1970: {e}")))?;
    Ok(i64::try_from(now.as_secs() / 86_400).unwrap_or(0))
}

/// The present as the API writes micro times: such texts compare like the times they mean.
#[must_use]
pub fn rfc3339_now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = now.as_secs();
    let (year, month, day) = civil(i64::try_from(seconds / 86_400).unwrap_or(0));
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", now.subsec_micros())
}

/// Days since 1970 as year, month and day (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i32, u8, u8) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    (i32::try_from(year).unwrap_or(2000), u8::try_from(month).unwrap_or(1), u8::try_from(day).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    #[test]
    fn days_become_dates() {
        assert_eq!(super::civil(0), (1970, 1, 1));
        assert_eq!(super::civil(19_782), (2024, 2, 29));
        assert_eq!(super::civil(20_780), (2026, 11, 23));
    }
}
