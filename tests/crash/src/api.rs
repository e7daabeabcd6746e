//! The Kubernetes API behind the door.

use http::{Method, Request};
use kube::Client;
use kube::client::Body;

use crate::door::Door;

/// A client that calls through the door.
#[must_use]
pub fn client(inner: Client, door: Door) -> Client {
    let namespace = inner.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (inner, door) = (inner.clone(), door.clone());
        async move {
            let name = name(&request);
            door.call(&name, inner.send(request)).await.map_err(tower::BoxError::from)
        }
    });
    Client::new(service, namespace)
}

/// `PUT etcdclusters/kube-etcd/status`, `WATCH etcdmembers`.
fn name(request: &Request<Body>) -> String {
    let is_watch = request.uri().query().is_some_and(|q| q.split('&').any(|p| p == "watch=true"));
    let verb = if is_watch { &Method::from_bytes(b"WATCH").unwrap_or(Method::GET) } else { request.method() };
    format!("{verb} {}", resource(request.uri().path()))
}

/// What follows the group, the version and the namespace in a path of the API.
fn resource(path: &str) -> String {
    let mut parts = path.split('/').filter(|p| !p.is_empty()).peekable();
    let skip = if parts.peek() == Some(&"api") { 2 } else { 3 };
    let rest: Vec<&str> = parts.skip(skip).collect();
    match rest.as_slice() {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest.join("/"),
        all => all.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_after_its_verb_and_resource() {
        for (path, wanted) in [
            (
                "/apis/etcd.database.coreos.com/v1beta2/namespaces/kube-system/etcdclusters/kube-etcd/status?x",
                "etcdclusters/kube-etcd/status",
            ),
            ("/api/v1/namespaces/kube-system/secrets/etcd-ca", "secrets/etcd-ca"),
            ("/api/v1/nodes", "nodes"),
            ("/apis/etcd.database.coreos.com/v1beta2/etcdclusters", "etcdclusters"),
        ] {
            assert_eq!(resource(path.split('?').next().unwrap_or_default()), wanted);
        }
    }
}
