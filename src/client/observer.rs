//! Each call to the API, told to whoever counts.

use std::time::Duration;

use http::{Method, Request};

/// A call that was answered, or was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiCall {
    /// As in the API server's audit log: get, list, watch, create, update, patch, delete.
    pub verb: &'static str,
    /// `etcdclusters/status`, `leases`; empty for what is no resource.
    pub resource: String,
    /// The HTTP status; `None` = no answer.
    pub code: Option<u16>,
    /// How long it took; of a watch: until it began.
    pub took: Duration,
}

/// Counts calls.
pub trait CallObserver: Send + Sync {
    /// A call has ended; a watch has begun.
    fn called(&self, call: &ApiCall);
}

/// Verb and resource of a request.
pub(crate) fn kind<B>(request: &Request<B>, is_watch: bool) -> (&'static str, String) {
    let parts: Vec<&str> = request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
    // /api/v1/… and /apis/<group>/<version>/…
    let rest = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => &[],
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let (resource, is_named) = match rest {
        [] => (String::new(), false),
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, sub, ..] => (format!("{resource}/{sub}"), true),
    };
    let verb = match *request.method() {
        _ if is_watch => "watch",
        Method::GET if is_named || resource.is_empty() => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_as_in_the_audit_log() {
        let group = "/apis/etcd.database.coreos.com/v1beta2/namespaces/kube-system/etcdclusters";
        for (method, path, expected) in [
            (Method::GET, "/api/v1/nodes", ("list", "nodes")),
            (Method::GET, "/api/v1/namespaces/kube-system", ("get", "namespaces")),
            (Method::GET, "/api/v1/namespaces/kube-system/secrets/etcd-ca", ("get", "secrets")),
            (Method::GET, group, ("list", "etcdclusters")),
            (Method::PUT, &format!("{group}/kube-etcd/status"), ("update", "etcdclusters/status")),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/kube-system/events", ("create", "events")),
            (Method::GET, "/readyz", ("get", "")),
        ] {
            let request = Request::builder().method(method).uri(path).body(()).unwrap();
            let (verb, resource) = kind(&request, false);
            assert_eq!((verb, resource.as_str()), expected, "{path}");
        }
    }
}
