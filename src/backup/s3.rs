//! Object stores that speak S3.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};

use crate::error::{Error, store};
use crate::store::Store;

/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence within an answer; an upload's part of 8 MiB must have gone by then, too: 0.6 Mbit/s.
const SILENT: Duration = Duration::from_secs(120);
/// Tries of one request, within [`RETRY_FOR`].
const RETRIES: usize = 4;
const RETRY_FOR: Duration = Duration::from_secs(60);

/// What opens the door. Not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Access key ID.
    pub id: String,
    /// Secret access key.
    pub secret: String,
    /// Session token.
    pub token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.id)
    }
}

/// A place in an S3-speaking store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3 {
    /// Bucket and prefix: `bucket/some/where`.
    pub path: String,
    /// Its URL; empty = Amazon's.
    pub endpoint: String,
    /// Empty = `us-east-1`.
    pub region: String,
    /// `https://endpoint/bucket` instead of `https://bucket.endpoint`.
    pub path_style: bool,
    /// CAs that sign its certificate, PEM; `None` = those that browsers trust.
    pub ca: Option<Vec<u8>>,
    /// `None` = those of the environment (workload identity).
    pub credentials: Option<Credentials>,
}

impl S3 {
    /// Bucket and prefix.
    ///
    /// # Errors
    /// When there is no bucket, or a part that no file system would take.
    pub fn place(&self) -> Result<(String, Path), Error> {
        let (bucket, prefix) = self.path.split_once('/').unwrap_or((&self.path, ""));
        if bucket.is_empty() {
            return Err(Error::Config(format!("s3.path: {:?} names no bucket; write <bucket>/<prefix>", self.path)));
        }
        let prefix = Path::parse(prefix).map_err(|error| Error::Config(format!("s3.path: {:?}: {error}", self.path)))?;
        Ok((bucket.to_owned(), prefix))
    }

    /// The store. Nothing is asked yet.
    ///
    /// # Errors
    /// When it cannot be used as it is described.
    pub fn store(&self) -> Result<Store, Error> {
        let (bucket, prefix) = self.place()?;
        let roots = match &self.ca {
            Some(pem) => {
                Certificate::from_pem_bundle(pem).map_err(|error| Error::Config(format!("s3: the CA is no PEM: {error}")))?
            }
            None => {
                let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
                roots.map(|root| Certificate::from_der(root)).collect::<Result<_, _>>().map_err(store("s3: CAs"))?
            }
        };
        // The image has no CAs of its own.
        let mut client = ClientOptions::new().with_no_system_certificates(true);
        for root in roots {
            client = client.with_root_certificate(root);
        }
        // No limit on a whole answer, which may be a backup of gigabytes.
        client = client.with_connect_timeout(CONNECT).with_timeout_disabled().with_read_timeout(SILENT);
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_FOR, backoff: BackoffConfig::default() };
        let mut builder = match &self.credentials {
            Some(credentials) => {
                let builder =
                    AmazonS3Builder::new().with_access_key_id(&credentials.id).with_secret_access_key(&credentials.secret);
                match &credentials.token {
                    Some(token) => builder.with_token(token),
                    None => builder,
                }
            }
            None => AmazonS3Builder::from_env(),
        };
        builder = builder.with_bucket_name(&bucket).with_virtual_hosted_style_request(!self.path_style);
        if !self.region.is_empty() {
            builder = builder.with_region(&self.region);
        }
        if !self.endpoint.is_empty() {
            if !self.endpoint.starts_with("https://") {
                let why =
                    format!("s3.endpoint: {:?} must be https://…: a backup holds every Secret of the cluster", self.endpoint);
                return Err(Error::Config(why));
            }
            builder =
                builder.with_endpoint(if self.path_style { self.endpoint.clone() } else { with_host(&self.endpoint, &bucket) });
        }
        let objects = builder.with_client_options(client).with_retry(retry).build().map_err(store("s3"))?;
        Ok(Store::objects(Arc::new(objects), prefix))
    }
}

/// `https://bucket.host` of `https://host`: the library takes an endpoint as it is.
fn with_host(endpoint: &str, bucket: &str) -> String {
    endpoint.replacen("https://", &format!("https://{bucket}."), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> S3 {
        S3 { path: path.into(), ..S3::default() }
    }

    #[test]
    fn the_first_part_of_a_path_is_the_bucket() {
        assert_eq!(at("b").place().unwrap(), ("b".into(), Path::default()));
        assert_eq!(at("b/c/d").place().unwrap(), ("b".into(), Path::from("c/d")));
        for bad in ["", "/b", "b/../c", "b/c//d"] {
            assert!(at(bad).place().unwrap_err().to_string().starts_with("s3.path: "), "{bad}");
        }
    }

    #[test]
    fn without_path_style_the_bucket_is_part_of_the_host() {
        assert_eq!(with_host("https://s3.example:9000", "b"), "https://b.s3.example:9000");
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_sent() {
        let _ = rustls_provider();
        let credentials = Some(Credentials { id: "id".into(), secret: "secret".into(), token: None });
        let good = S3 { endpoint: "https://127.0.0.1:1".into(), credentials, ..at("b") };
        good.store().map(drop).unwrap();
        let plain = S3 { endpoint: "http://127.0.0.1:1".into(), ..good.clone() };
        assert!(plain.store().map(drop).unwrap_err().to_string().contains("https://"));
        let ca = S3 { ca: Some(b"-----BEGIN CERTIFICATE-----".to_vec()), ..good.clone() };
        assert!(ca.store().map(drop).unwrap_err().to_string().contains("CA"));
        assert!(!format!("{good:?}").contains("secret"));
    }

    fn rustls_provider() -> Result<(), Arc<rustls::crypto::CryptoProvider>> {
        rustls::crypto::ring::default_provider().install_default()
    }
}
