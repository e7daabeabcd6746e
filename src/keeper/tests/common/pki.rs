//! A CA and leaf certificates as the agent and the controller make them: client certificates without SANs.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

pub struct Ca {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "etcd-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Writes `ca.crt`, `{peer,server,client}.{crt,key}`.
    pub fn write(&self, pki: &Path, ips: &[IpAddr]) {
        fs::create_dir_all(pki).unwrap();
        fs::write(pki.join("ca.crt"), &self.certificate).unwrap();
        for name in ["peer", "server", "client"] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            if name != "client" {
                params.subject_alt_names = ips.iter().map(|ip| SanType::IpAddress(*ip)).collect();
            }
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            fs::write(pki.join(format!("{name}.crt")), certificate.pem()).unwrap();
            fs::write(pki.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
    }
}
