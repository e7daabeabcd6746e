//! The CA of an etcd cluster, and what it signs. Only the controller holds it (design D5).

use std::net::IpAddr;
use std::time::Duration;

use etcd_operator_etcd::client::Tls;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use x509_parser::extensions::GeneralName;

/// How long a leaf certificate is valid. One year, as kubeadm's.
const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a CA of our own making is valid. Ten years, as kubeadm's.
const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far before now a certificate begins, so that a node whose clock is behind accepts it, or all of them where the controller's is ahead.
const BACKDATE: Duration = Duration::from_secs(24 * 3600);

/// Why the CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The Secret's content.
    #[error("the CA in Secret {secret} cannot be used: {why}")]
    Ca {
        /// Name of the Secret.
        secret: String,
        /// What is wrong.
        why: String,
    },
    /// A CSR of a node.
    #[error("the certificate request of {node} ({usage:?}) cannot be signed: {why}")]
    Csr {
        /// Whose.
        node: String,
        /// For what.
        usage: Usage,
        /// What is wrong.
        why: String,
    },
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// etcd's peer port: both sides; SANs are the node's IPs.
    Peer,
    /// etcd's client port; needs clientAuth too, as etcd's own gateway is its client. SANs: node IPs and loopback.
    Server,
    /// A client of etcd: no SANs, or etcd would compare them with the remote address (traps, "TLS").
    Client,
}

/// What a leaf is to name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// Addresses; none in a client's.
    pub ips: &'a [IpAddr],
    /// Names, in a server's.
    pub dns: &'a [String],
}

/// A usable CA.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    /// Reads a CA from PEM.
    ///
    /// # Errors
    /// When it is not a CA certificate, the key does not belong to it, or the key's form is not supported (PKCS#8 is).
    pub fn from_pem(secret: &str, cert: &str, key: &str) -> Result<Self, PkiError> {
        let bad = |why: String| PkiError::Ca { secret: secret.to_owned(), why };
        let key = KeyPair::from_pem(key).map_err(|e| {
            bad(format!("tls.key: {e}; it must be PEM in PKCS#8 form (`openssl pkcs8 -topk8 -nocrypt` converts it)"))
        })?;
        check_pair(cert, &key).map_err(bad)?;
        let issuer = Issuer::from_ca_cert_pem(cert, key).map_err(|e| bad(format!("tls.crt: {e}")))?;
        Ok(Self { issuer, pem: cert.to_owned() })
    }

    /// The CA's certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs a node's CSR. Only the public key is taken from it: names and addresses are the controller's.
    ///
    /// # Errors
    /// When it cannot be read, or its signature is wrong.
    pub fn sign(&self, csr: &str, node: &str, usage: Usage, names: Names<'_>, now_ms: u64) -> Result<String, PkiError> {
        let bad = |e: rcgen::Error| PkiError::Csr { node: node.to_owned(), usage, why: e.to_string() };
        let mut request = CertificateSigningRequestParams::from_pem(csr).map_err(bad)?;
        request.params = leaf(node, usage, names, now_ms).map_err(bad)?;
        Ok(request.signed_by(&self.issuer).map_err(bad)?.pem())
    }

    /// A client certificate for this process; its key is never written anywhere.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn own_client(&self, name: &str, now_ms: u64) -> Result<Tls, PkiError> {
        let (cert, key) = self.client(name, now_ms)?;
        Ok(Tls { ca: self.pem.clone().into_bytes(), cert: cert.into_bytes(), key: key.into_bytes() })
    }

    /// A client certificate and its key, PEM.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn client(&self, name: &str, now_ms: u64) -> Result<(String, String), PkiError> {
        let bad = |e: rcgen::Error| PkiError::Csr { node: name.to_owned(), usage: Usage::Client, why: e.to_string() };
        let key = KeyPair::generate().map_err(bad)?;
        let cert = leaf(name, Usage::Client, Names::default(), now_ms)
            .and_then(|leaf| leaf.signed_by(&key, &self.issuer))
            .map_err(bad)?;
        Ok((cert.pem(), key.serialize_pem()))
    }

    /// A new CA: certificate and key, PEM.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn generate(name: &str, now_ms: u64) -> Result<(String, String), PkiError> {
        let bad = |e: rcgen::Error| PkiError::Ca { secret: name.to_owned(), why: e.to_string() };
        let key = KeyPair::generate().map_err(bad)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = std::time::UNIX_EPOCH + Duration::from_millis(now_ms);
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + CA_VALIDITY).into();
        Ok((params.self_signed(&key).map_err(bad)?.pem(), key.serialize_pem()))
    }
}

fn leaf(name: &str, usage: Usage, names: Names<'_>, now_ms: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::NoCa;
    let now = std::time::UNIX_EPOCH + Duration::from_millis(now_ms);
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + LEAF_VALIDITY).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = match usage {
        Usage::Client => Vec::new(),
        Usage::Peer | Usage::Server => names.ips.iter().map(|ip| SanType::IpAddress(*ip)).collect(),
    };
    if usage == Usage::Server {
        for name in names.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::from([127, 0, 0, 1])));
    }
    params.extended_key_usages = match usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Peer | Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    Ok(params)
}

/// Whether the key belongs to the certificate, and the certificate is a CA's.
fn check_pair(cert: &str, key: &KeyPair) -> Result<(), String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert.as_bytes()).map_err(|e| format!("tls.crt: {e}"))?;
    let x509 = pem.parse_x509().map_err(|e| format!("tls.crt: {e}"))?;
    if !x509.is_ca() {
        return Err("tls.crt: not a CA certificate".into());
    }
    if x509.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err("tls.key does not belong to tls.crt".into());
    }
    Ok(())
}

/// Whether a leaf is due for renewal: two thirds of its life are over, it has not begun, or it cannot be read.
#[must_use]
pub fn is_due(cert: &str, now_ms: u64) -> bool {
    let parsed = x509_parser::pem::parse_x509_pem(cert.as_bytes()).ok();
    let Some(validity) = parsed.as_ref().and_then(|(_, p)| p.parse_x509().ok()).map(|c| c.validity().clone()) else {
        return true;
    };
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let now = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    now < from || now >= from + (to - from) / 3 * 2
}

/// Whether a leaf names all of these addresses.
#[must_use]
pub fn covers(cert: &str, ips: &[IpAddr]) -> bool {
    let octets = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let parsed = x509_parser::pem::parse_x509_pem(cert.as_bytes()).ok();
    let Some(cert) = parsed.as_ref().and_then(|(_, p)| p.parse_x509().ok()) else { return false };
    let Ok(names) = cert.subject_alternative_name() else { return false };
    let names = names.map(|n| n.value.general_names.as_slice()).unwrap_or_default();
    ips.iter().all(|ip| names.iter().any(|n| matches!(n, GeneralName::IPAddress(bytes) if *bytes == octets(ip))))
}

/// Whether two certificates are of one key: a CA whose certificate was renewed is the same CA.
#[must_use]
pub fn same_key(one: &str, other: &str) -> bool {
    let key = |pem: &str| {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        pem.parse_x509().ok().map(|c| c.public_key().raw.to_vec())
    };
    key(one).is_some() && key(one) == key(other)
}

/// Whether a leaf was made for the key of this CSR.
#[must_use]
pub fn matches(cert: &str, csr: &str) -> bool {
    let key_of_cert = x509_parser::pem::parse_x509_pem(cert.as_bytes())
        .ok()
        .and_then(|(_, p)| p.parse_x509().ok().map(|c| c.public_key().raw.to_vec()));
    let key_of_csr = x509_parser::pem::parse_x509_pem(csr.as_bytes()).ok().and_then(|(_, p)| {
        use x509_parser::prelude::FromDer;
        x509_parser::certification_request::X509CertificationRequest::from_der(&p.contents)
            .ok()
            .map(|(_, r)| r.certification_request_info.subject_pki.raw.to_vec())
    });
    key_of_cert.is_some() && key_of_cert == key_of_csr
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn ca() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_csr_cannot_choose_its_own_names() {
        let (cert, key) = ca();
        let ca = Ca::from_pem("s", &cert, &key).unwrap();
        let node_key = KeyPair::generate().unwrap();
        let asked = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        let csr = asked.serialize_request(&node_key).unwrap().pem().unwrap();
        let signed = ca.sign(&csr, "cp1", Usage::Peer, Names { ips: &["10.0.0.1".parse().unwrap()], dns: &[] }, NOW).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).unwrap();
        let text = format!("{:?}", pem.parse_x509().unwrap().subject_alternative_name());
        assert!(!text.contains("evil"), "{text}");
        let ips = |all: &[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert!(covers(&signed, &ips(&["10.0.0.1"])) && covers(&signed, &[]));
        assert!(!covers(&signed, &ips(&["10.0.0.1", "10.0.0.2"])) && !covers(&signed, &ips(&["::ffff:10.0.0.1"])));
        assert!(!covers("nonsense", &[]));
        assert!(matches(&signed, &csr));
        assert!(!is_due(&signed, NOW) && !is_due(&signed, NOW - 23 * 3_600_000));
        assert!(is_due(&signed, NOW - 25 * 3_600_000), "signed by a clock that was ahead");
        assert!(is_due(&signed, NOW + 300 * 24 * 3_600_000));
    }

    #[test]
    fn a_ca_is_the_same_by_its_key() {
        let key = KeyPair::generate().unwrap();
        let of = |key: &KeyPair| CertificateParams::default().self_signed(key).unwrap().pem();
        assert!(same_key(&of(&key), &of(&key)), "renewed");
        assert!(!same_key(&of(&key), &of(&KeyPair::generate().unwrap())) && !same_key("", ""));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let ((cert, _), (_, other)) = (ca(), ca());
        assert!(Ca::from_pem("etcd-ca", &cert, &other).err().unwrap().to_string().contains("does not belong"));
        assert!(Ca::from_pem("etcd-ca", "nonsense", &other).is_err());
        assert!(Ca::from_pem("etcd-ca", &cert, "nonsense").is_err());
    }
}
