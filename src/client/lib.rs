//! The connection to the API servers, for agent, controller and pivot command.
//!
//! One [`kube::Client`] that outlives any single API server: below it sits a choice among all servers of `--api-server`. A request that
//! cannot connect goes to the next server at once (nothing was sent yet); a server that stops answering is noticed by a probe, and then
//! all that still waits for it, watches included, ends with an error, so that callers' ordinary retries land on a living server.
//! kube's own retry layer is off: it would try a write 15 times inside one call, and hide an API that is down.

pub mod clock;
mod failover;
mod observer;
mod probe;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use failover::{Server, Shared};

pub use observer::{ApiCall, CallObserver};

/// How long to wait for a TCP and TLS connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a request other than a watch may take in all.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a watch lives before the server ends it, in seconds: shorter than the 290 s default so that a watch that hears nothing
/// is renewed within the time in which people look.
pub const WATCH_SECONDS: u32 = 200;

/// Where the API servers are and who we are.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// URLs of the API servers, by IP; empty = the address that the kubeconfig or the cluster's environment names.
    pub api_servers: Vec<String>,
    /// A kubeconfig with the credentials; none = the service account of this pod.
    pub kubeconfig: Option<PathBuf>,
}

/// Why there is no connection to set up (not: why a server does not answer, which is waited out).
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither a kubeconfig nor a service account.
    #[error("no credentials for the API: {0}; run in a pod with a service account, or name a kubeconfig")]
    InCluster(#[from] kube::config::InClusterError),
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// A server's URL.
    #[error("--api-server {url:?}: {why}; expected https://<IP>:<port>")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// kube refuses the configuration (certificates, for the most part).
    #[error("client for {url}: {source}")]
    Build {
        /// The server.
        url: String,
        /// What is wrong.
        source: kube::Error,
    },
}

/// The API servers and the choice among them.
#[derive(Clone)]
pub struct ApiServers {
    shared: Arc<Shared>,
    client: Client,
    namespace: String,
}

impl ApiServers {
    /// Sets the connection up; talks to no server yet. Must be called within a tokio runtime, after a rustls provider was installed.
    ///
    /// # Errors
    /// If the credentials or URLs cannot be used. A server that does not answer is no error here.
    pub async fn connect(options: &ClientOptions) -> Result<Self, ClientError> {
        let base = base_config(options).await?;
        let namespace = base.default_namespace.clone();
        let configs = if options.api_servers.is_empty() { vec![base] } else { with_urls(&base, &options.api_servers)? };

        let mut servers = Vec::with_capacity(configs.len());
        for mut config in configs {
            // The timeouts live above: kube's read timeout would also end quiet watches.
            config.connect_timeout = Some(CONNECT_TIMEOUT);
            config.read_timeout = None;
            config.write_timeout = Some(REQUEST_TIMEOUT);
            config.default_retry = false;
            let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
            let client = Client::try_from(config).map_err(|source| ClientError::Build { url: url.clone(), source })?;
            servers.push(Server { url, client });
        }
        let shared = Arc::new(Shared::new(servers));
        let client = failover::client(&shared, &namespace);
        tokio::spawn(probe::run(Arc::downgrade(&shared), shared.kick()));
        Ok(Self { shared, client, namespace })
    }

    /// One server that is reached by a client of the caller's; nobody probes it.
    #[must_use]
    pub fn one(url: &str, client: Client, namespace: &str) -> Self {
        let shared = Arc::new(Shared::new(vec![Server { url: url.to_owned(), client }]));
        let client = failover::client(&shared, namespace);
        Self { shared, client, namespace: namespace.to_owned() }
    }

    /// The client: clone it freely, it never needs to be replaced.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Has each call told to somebody; once.
    pub fn observe(&self, observer: Arc<dyn CallObserver>) {
        self.shared.observe(observer);
    }

    /// The namespace of the service account or of the kubeconfig's context.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// URL of the server in use.
    #[must_use]
    pub fn current(&self) -> String {
        self.shared.current().1.url.clone()
    }

    /// URLs of all servers.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.shared.servers().iter().map(|server| server.url.clone()).collect()
    }

    /// One client per server, for callers that must look at a certain one (is it ready, what does it list?). No failover, and no
    /// timeout but that for connecting: bring your own.
    #[must_use]
    pub fn each(&self) -> Vec<(String, Client)> {
        self.shared.servers().iter().map(|server| (server.url.clone(), server.client.clone())).collect()
    }

    /// Moves on to the next server of the list; what still waits for the old one ends with an error.
    pub fn next(&self) {
        let (index, _) = self.shared.current();
        self.shared.move_from(index, self.shared.after(index));
    }
}

impl std::fmt::Debug for ApiServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServers").field("urls", &self.urls()).field("current", &self.current()).finish()
    }
}

/// The settings for every watch of ours: ends by itself after [`WATCH_SECONDS`].
#[must_use]
pub fn watch_config() -> kube::runtime::watcher::Config {
    kube::runtime::watcher::Config::default().timeout(WATCH_SECONDS)
}

async fn base_config(options: &ClientOptions) -> Result<Config, ClientError> {
    if let Some(path) = &options.kubeconfig {
        let wrap = |source| ClientError::Kubeconfig { path: path.clone(), source };
        let kubeconfig = Kubeconfig::read_from(path).map_err(wrap)?;
        return Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(wrap);
    }
    // With a list of servers the environment's address is not needed; this variant only reads the service account's files.
    if options.api_servers.is_empty() { Ok(Config::incluster_env()?) } else { Ok(Config::incluster_dns()?) }
}

fn with_urls(base: &Config, urls: &[String]) -> Result<Vec<Config>, ClientError> {
    urls.iter()
        .map(|url| {
            let bad = |why: &str| ClientError::Url { url: url.clone(), why: why.to_owned() };
            let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
            match (uri.scheme_str(), uri.host()) {
                (Some("https"), Some(_)) => {}
                // Credentials would travel in the clear.
                (Some(_), Some(_)) => return Err(bad("not https")),
                _ => return Err(bad("no scheme or no host")),
            }
            if !matches!(uri.path(), "" | "/") {
                return Err(bad("has a path"));
            }
            let mut config = base.clone();
            config.cluster_url = uri;
            Ok(config)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_urls_are_https_without_a_path() {
        let base = Config::new("https://192.0.2.1:6443".parse().unwrap());
        for (url, good) in [
            ("https://192.0.2.2:6443", true),
            ("https://192.0.2.2:6443/", true),
            ("http://192.0.2.2:6443", false),
            ("192.0.2.2:6443", false),
            ("https://192.0.2.2:6443/api", false),
            ("https://", false),
            ("", false),
        ] {
            assert_eq!(with_urls(&base, &[url.to_owned()]).is_ok(), good, "{url}");
        }
    }
}
