//! Address and credentials of the API server, from a kubeconfig.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::options::{WitnessError, read};

/// What a kubeconfig's current context says.
pub struct Access {
    /// URL of the API server.
    pub server: String,
    /// CA of the API server, PEM.
    pub ca: Vec<u8>,
    /// Client certificate and key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Bearer token.
    pub token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: Option<String>,
    #[serde(default)]
    contexts: Vec<Named<Context>>,
    #[serde(default)]
    clusters: Vec<Named<Cluster>>,
    #[serde(default)]
    users: Vec<Named<User>>,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "context", alias = "cluster", alias = "user")]
    value: T,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
}

impl Access {
    /// Reads a kubeconfig's current context, or its only one.
    pub fn read(path: &Path) -> Result<Self, WitnessError> {
        let wrong = |reason: String| WitnessError::Content { path: path.into(), reason };
        let config: Kubeconfig =
            serde_yaml_ng::from_slice(&read(path)?).map_err(|error| wrong(format!("not a kubeconfig: {error}")))?;
        let context = match &config.current_context {
            Some(name) if !name.is_empty() => find(&config.contexts, name),
            _ => config.contexts.first().map(|context| &context.value),
        }
        .ok_or_else(|| wrong("it has no current context".into()))?;
        let cluster = find(&config.clusters, &context.cluster)
            .ok_or_else(|| wrong(format!("cluster {:?} of the context is not in it", context.cluster)))?;
        let user = find(&config.users, &context.user)
            .ok_or_else(|| wrong(format!("user {:?} of the context is not in it", context.user)))?;

        let pem = |data: &Option<String>, file: &Option<PathBuf>, what: &str| -> Result<Option<Vec<u8>>, WitnessError> {
            match (data, file) {
                (Some(data), _) => base64(data).map(Some).ok_or_else(|| wrong(format!("{what}-data is not base64"))),
                (None, Some(file)) => read(&path.parent().unwrap_or(Path::new(".")).join(file)).map(Some),
                (None, None) => Ok(None),
            }
        };
        let ca = pem(&cluster.certificate_authority_data, &cluster.certificate_authority, "certificate-authority")?.ok_or_else(
            || wrong("the cluster has no certificate authority: the witness does not talk to servers it cannot verify".into()),
        )?;
        let certificate = pem(&user.client_certificate_data, &user.client_certificate, "client-certificate")?;
        let key = pem(&user.client_key_data, &user.client_key, "client-key")?;
        let identity = certificate.zip(key);
        if identity.is_none() && user.token.is_none() {
            return Err(wrong("the user has neither a client certificate with a key nor a token".into()));
        }
        Ok(Access { server: cluster.server.clone(), ca, identity, token: user.token.clone() })
    }
}

fn find<'a, T>(list: &'a [Named<T>], name: &str) -> Option<&'a T> {
    list.iter().find(|item| item.name == name).map(|item| &item.value)
}

/// Decodes base64 with the standard alphabet.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=') {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_decoded_with_and_without_padding() {
        assert_eq!(super::base64("aGVsbG8=").as_deref(), Some(b"hello".as_slice()));
        assert_eq!(super::base64("aGVs\nbG8h").as_deref(), Some(b"hello!".as_slice()));
        assert_eq!(super::base64("a*"), None);
    }
}
