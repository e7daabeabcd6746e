//! Keys are made on the node and never leave it (design D5): the CSR goes out in the status, the certificate comes in with the spec.
//! What the certificate may be used for is the controller's business; the CSR only proves that we have the key.

use std::path::Path;
use std::sync::LazyLock;

use etcd_operator_api::member::{Certificates, Csr};
use etcd_operator_client::clock;
use rcgen::{CertificateParams, CertificateSigningRequestParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use x509_parser::pem::Pem;

use crate::files;
use crate::memo::Memo;
use crate::problem::{Problem, Reason};

/// Makes the keys that are missing and returns the CSRs of all `kinds`.
pub(crate) fn requests(pki: &Path, node: &str, with_servers: Servers) -> Result<Csr, Problem> {
    files::make_dir(pki, 0o700)?;
    let optional = |kind| match with_servers {
        Servers::Yes => request(pki, kind, node).map(Some),
        Servers::No => Ok(None),
    };
    Ok(Csr { peer: optional("peer")?, server: optional("server")?, client: request(pki, "client", node)? })
}

/// Whether a member also serves, or is only a client of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// Keys for the peer and the client port as well.
    Yes,
    /// A client's key only.
    No,
}

/// Whether a CSR is of its key.
static FITS: LazyLock<Memo<bool>> = LazyLock::new(Memo::default);
/// Certificates in a spec, and on disk.
static CERTIFICATES: LazyLock<Memo<Found>> = LazyLock::new(Memo::default);
/// The public keys of private ones.
static KEYS: LazyLock<Memo<Vec<u8>>> = LazyLock::new(Memo::default);

/// The CSR of one key. Kept on disk: ECDSA signatures differ each time, and the status must not change at rest.
fn request(pki: &Path, kind: &str, node: &str) -> Result<String, Problem> {
    let unusable = |what: &str, error: &dyn std::fmt::Display| {
        Problem::new(
            Reason::KeysUnusable,
            format!("{what} of {kind} in {}: {error}; move the {kind}.* files away to have new ones made", pki.display()),
        )
    };
    let key_file = pki.join(format!("{kind}.key"));
    let request_file = pki.join(format!("{kind}.csr"));
    let (known, there) = (files::read(&key_file)?, files::read(&request_file)?);
    if let (Some(key), Some(request)) = (&known, &there) {
        // The bytes of both; neither can begin where the other ends.
        let both = [key.as_slice(), b"\0", request.as_slice()].concat();
        let fits = FITS.of(&request_file, &both, || {
            let key = KeyPair::from_pem(&String::from_utf8_lossy(key))?;
            let request = CertificateSigningRequestParams::from_pem(&String::from_utf8_lossy(request));
            Ok(request.is_ok_and(|request| request.public_key.subject_public_key_info() == key.subject_public_key_info()))
        });
        if fits.map_err(|error: rcgen::Error| unusable("the key", &error))? {
            return Ok(String::from_utf8_lossy(request).into_owned());
        }
    }
    let key = match known {
        Some(pem) => {
            let text = String::from_utf8_lossy(&pem);
            // Never overwritten: a key that cannot be read may be one that etcd still runs with.
            KeyPair::from_pem(&text).map_err(|error| unusable("the key", &error))?
        }
        None => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| unusable("the key", &error))?;
            files::write(&key_file, key.serialize_pem().as_bytes(), files::SECRET)?;
            key
        }
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, node);
    let text = params
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(|error| unusable("the certificate request", &error))?;
    files::write(&request_file, text.as_bytes(), files::SECRET)?;
    Ok(text)
}

/// Writes the certificates that belong to our keys. The CA first: with it a half-written set is at most refused, never wrong.
pub(crate) fn install(pki: &Path, certificates: &Certificates, etcd_runs: bool) -> Result<(), Problem> {
    let all = [
        ("peer", certificates.peer.as_deref()),
        ("server", certificates.server.as_deref()),
        ("client", Some(certificates.client.as_str())),
    ];
    let ca = parse(pki, "ca", &certificates.ca)?;
    let there = files::read(&pki.join("ca.crt"))?.unwrap_or_default();
    // etcd reads its certificates anew, but not whom it trusts.
    let is_other = || parse(&pki.join("there"), "ca", &String::from_utf8_lossy(&there)).is_ok_and(|there| there.key != ca.key);
    if etcd_runs && there != certificates.ca.as_bytes() && is_other() {
        return Err(Problem::new(
            Reason::CertificateMismatch,
            "spec.certificates.ca is another CA than the one that the etcd here runs with: it would be cut off from its peers, and keeps what it has",
        ));
    }
    for (kind, pem) in all {
        if let Some(pem) = pem {
            belongs(pki, kind, pem)?;
        }
    }
    let is_same_ca = there == certificates.ca.as_bytes();
    files::write_if_changed(&pki.join("ca.crt"), certificates.ca.as_bytes(), files::PUBLIC)?;
    for (kind, pem) in all {
        if let Some(pem) = pem.filter(|pem| !is_same_ca || !has_newer(pki, kind, pem)) {
            files::write_if_changed(&pki.join(format!("{kind}.crt")), pem.as_bytes(), files::PUBLIC)?;
        }
    }
    Ok(())
}

/// Whether what is there was issued later, for the same key, and is valid: an EtcdMember from a backup has certificates of another time, which may be over or
/// without an address that the node has by now.
fn has_newer(pki: &Path, kind: &str, pem: &str) -> bool {
    let there = files::read(&pki.join(format!("{kind}.crt"))).ok().flatten().unwrap_or_default();
    let there = parse(&pki.join(format!("{kind} that is there")), kind, &String::from_utf8_lossy(&there));
    let (Ok(there), Ok(offered)) = (there, parse(pki, kind, pem)) else { return false };
    let is_valid = there.begins <= now_s() && now_s() < there.ends;
    let is_later = there.begins > offered.begins && there.ends > offered.ends;
    // A clock that was ahead is no reason to be without an address.
    let covers = offered.names.iter().all(|name| there.names.contains(name));
    there.key == offered.key && is_later && is_valid && covers
}

fn belongs(pki: &Path, kind: &str, pem: &str) -> Result<(), Problem> {
    let file = pki.join(format!("{kind}.key"));
    let key = files::read(&file)?.unwrap_or_default();
    let public = || KeyPair::from_pem(&String::from_utf8_lossy(&key)).map(|key| key.subject_public_key_info());
    let key = KEYS
        .of(&file, &key, public)
        .map_err(|error| Problem::new(Reason::KeysUnusable, format!("the key {kind}.key in {}: {error}", pki.display())))?;
    let found = parse(pki, kind, pem)?;
    let is_there = files::read(&pki.join(format!("{kind}.crt")))?.as_deref() == Some(pem.as_bytes());
    if found.begins > now_s() && !is_there {
        // What is there is better: nobody would take this one.
        return Err(Problem::new(
            Reason::CertificateMismatch,
            format!(
                "spec.certificates.{kind} is not valid yet by this node's clock, by {} s; set up time synchronisation (chrony) here and for the controller",
                found.begins - now_s()
            ),
        ));
    }
    if found.key == key {
        return Ok(());
    }
    Err(Problem::new(
        Reason::CertificateMismatch,
        format!(
            "spec.certificates.{kind} is not for the key on this node; the controller signs anew from status.csr, wait for it"
        ),
    ))
}

/// What is looked at in a certificate.
#[derive(Clone)]
struct Found {
    /// Its public key.
    key: Vec<u8>,
    /// From when on it is valid, s since 1970.
    begins: i64,
    /// Until when.
    ends: i64,
    /// The names and addresses that it is for.
    names: Vec<String>,
}

fn now_s() -> i64 {
    i64::try_from(clock::now_ms() / 1000).unwrap_or(i64::MAX)
}

/// The (first) certificate.
fn parse(pki: &Path, kind: &str, pem: &str) -> Result<Found, Problem> {
    CERTIFICATES.of(&pki.join(kind), pem.as_bytes(), || parsed(kind, pem))
}

fn parsed(kind: &str, pem: &str) -> Result<Found, Problem> {
    let wrong =
        |error: String| Problem::new(Reason::CertificateMismatch, format!("spec.certificates.{kind} is no certificate: {error}"));
    let first = Pem::iter_from_buffer(pem.as_bytes())
        .next()
        .ok_or_else(|| wrong("no PEM block".into()))?
        .map_err(|error| wrong(error.to_string()))?;
    let certificate = first.parse_x509().map_err(|error| wrong(error.to_string()))?;
    let validity = certificate.validity();
    let (begins, ends) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let names = certificate.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    let names = names.into_iter().flatten().map(|name| format!("{name:?}")).collect();
    Ok(Found { key: certificate.public_key().raw.to_vec(), begins, ends, names })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertifiedIssuer, IsCa};
    use std::os::unix::fs::PermissionsExt as _;

    /// A CA that signs a CSR, as the controller does.
    pub(crate) fn sign(request: &str, issuer: &CertifiedIssuer<'_, KeyPair>) -> String {
        CertificateSigningRequestParams::from_pem(request).unwrap().signed_by(issuer).unwrap().pem()
    }

    pub(crate) fn ca() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn keys_are_made_once_and_secret() {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        let first = requests(&pki, "cp1", Servers::Yes).unwrap();
        assert_eq!(requests(&pki, "cp1", Servers::Yes).unwrap(), first, "a CSR must not change at rest");
        for kind in ["peer", "server", "client"] {
            let mode = std::fs::metadata(pki.join(format!("{kind}.key"))).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(std::fs::metadata(&pki).unwrap().permissions().mode() & 0o777, 0o700);
        let boot = requests(&dir.path().join("boot"), "cp1", Servers::No).unwrap();
        assert!(boot.peer.is_none() && boot.server.is_none());
    }

    #[test]
    fn a_csr_that_does_not_fit_its_key_is_made_anew_and_a_torn_key_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        requests(dir.path(), "cp1", Servers::No).unwrap();
        let foreign = requests(other.path(), "cp1", Servers::No).unwrap().client;
        std::fs::write(dir.path().join("client.csr"), &foreign).unwrap();
        assert_ne!(requests(dir.path(), "cp1", Servers::No).unwrap().client, foreign);
        std::fs::write(dir.path().join("client.key"), "torn").unwrap();
        assert_eq!(requests(dir.path(), "cp1", Servers::No).unwrap_err().reason, Reason::KeysUnusable);
        assert_eq!(std::fs::read(dir.path().join("client.key")).unwrap(), b"torn");
    }

    #[test]
    fn a_certificate_that_has_not_begun_leaves_the_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let ca = ca();
        let ours = requests(dir.path(), "cp1", Servers::No).unwrap();
        let certificates = |client| Certificates { ca: ca.pem(), peer: None, server: None, client };
        install(dir.path(), &certificates(sign(&ours.client, &ca)), false).unwrap();
        let there = std::fs::read(dir.path().join("client.crt")).unwrap();
        let mut later = CertificateSigningRequestParams::from_pem(&ours.client).unwrap();
        later.params.not_before = (std::time::SystemTime::now() + std::time::Duration::from_secs(3600)).into();
        let problem = install(dir.path(), &certificates(later.signed_by(&ca).unwrap().pem()), false).unwrap_err();
        assert!(problem.message.contains("clock"), "{}", problem.message);
        assert_eq!(std::fs::read(dir.path().join("client.crt")).unwrap(), there);
    }

    #[test]
    fn a_certificate_from_a_backup_does_not_take_the_place_of_a_later_one_that_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, other) = (ca(), ca());
        let pki = dir.path().join("pki");
        let request = requests(&pki, "cp1", Servers::No).unwrap().client;
        let in_hours = |hours: i64| {
            let (now, far) = (std::time::SystemTime::now(), std::time::Duration::from_secs(hours.unsigned_abs() * 3600));
            if hours < 0 { now - far } else { now + far }
        };
        let valid = |from: i64, to: i64| {
            let mut params = CertificateSigningRequestParams::from_pem(&request).unwrap();
            (params.params.not_before, params.params.not_after) = (in_hours(from).into(), in_hours(to).into());
            params.signed_by(&ca).unwrap().pem()
        };
        let there = || std::fs::read_to_string(pki.join("client.crt")).unwrap();
        let offer = |client: &str| {
            let offered = Certificates { ca: ca.pem(), peer: None, server: None, client: client.to_owned() };
            install(&pki, &offered, false).unwrap();
        };
        let (old, new) = (valid(-20, 5), valid(-10, 10));
        for (offered, wanted) in [(&old, &old), (&new, &new), (&old, &new)] {
            offer(offered);
            assert_eq!(there(), *wanted);
        }
        // One that is over is none.
        let over = valid(-5, -1);
        std::fs::write(pki.join("client.crt"), &over).unwrap();
        offer(&old);
        assert_eq!(there(), old);
        // Of another CA everything is new.
        offer(&new);
        let by_other = CertificateSigningRequestParams::from_pem(&request).unwrap().signed_by(&other).unwrap().pem();
        install(&pki, &Certificates { ca: other.pem(), peer: None, server: None, client: by_other.clone() }, false).unwrap();
        assert_eq!(there(), by_other);
    }

    #[test]
    fn only_certificates_of_our_own_keys_are_installed() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let ca = ca();
        let ours = requests(dir.path(), "cp1", Servers::Yes).unwrap();
        let foreign = requests(other.path(), "cp1", Servers::Yes).unwrap();
        let mut certificates = Certificates {
            ca: ca.pem(),
            peer: Some(sign(ours.peer.as_deref().unwrap(), &ca)),
            server: Some(sign(ours.server.as_deref().unwrap(), &ca)),
            client: sign(&foreign.client, &ca),
        };
        assert_eq!(install(dir.path(), &certificates, false).unwrap_err().reason, Reason::CertificateMismatch);
        assert!(!dir.path().join("peer.crt").exists(), "nothing of a set that does not fit is installed");
        certificates.client = sign(&ours.client, &ca);
        install(dir.path(), &certificates, false).unwrap();
        for file in ["ca.crt", "peer.crt", "server.crt", "client.crt"] {
            assert!(dir.path().join(file).exists(), "{file}");
        }
        // While etcd runs it is not cut off from its peers.
        let another = super::tests::ca();
        let mut others = Certificates { ca: another.pem(), peer: None, server: None, client: sign(&ours.client, &another) };
        assert!(install(dir.path(), &others, true).unwrap_err().message.contains("another CA"));
        assert_eq!(std::fs::read_to_string(dir.path().join("ca.crt")).unwrap(), ca.pem());
        others.ca = ca.pem();
        others.client = sign(&ours.client, &ca);
        install(dir.path(), &others, true).unwrap();
        certificates.ca = "-----BEGIN CERTIFICATE-----\nnonsense".into();
        assert!(install(dir.path(), &certificates, false).is_err());
    }
}
