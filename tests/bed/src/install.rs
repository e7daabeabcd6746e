//! The operator as an installer puts it in: image, one ConfigMap, `kubectl apply -k`.

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::cmd::progress;
use crate::error::{Error, Result};
use crate::layout::{API_URL, ETCD_IMAGE, NAMESPACE, OPERATOR_IMAGE};
use crate::state::switched_on;
use crate::{binaries, images, node};

impl Bed {
    /// Builds the operator, loads its image where it changed, and applies `deploy/` with the bed's overlay.
    ///
    /// # Errors
    /// The step that failed.
    pub fn install(&self) -> Result<()> {
        let reloaded = self.load_operator()?;
        let repository = ETCD_IMAGE
            .rsplit_once(':')
            .map_or(ETCD_IMAGE, |(repository, _)| repository);
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "etcd-operator", "namespace": NAMESPACE },
            "data": {
                "ETCD_OPERATOR_API_SERVERS": API_URL,
                "ETCD_OPERATOR_DEFAULT_REPOSITORY": repository,
                "ETCD_OPERATOR_ALLOWED_IMAGES": repository,
            },
        }))?;
        let overlay = self.layout.checkout.join("tests/bed/overlay");
        let out = self.kubectl(&["apply", "-k", &overlay.to_string_lossy()])?;
        out.lines().for_each(|line| progress(format!("  {line}")));
        if reloaded {
            self.restart_operator()
        } else {
            Ok(())
        }
    }

    /// Deletes the pods that run the operator's image: the tag is the same, so nothing else makes them take the new one.
    /// (Members' pods run etcd's image and are not touched.)
    fn restart_operator(&self) -> Result<()> {
        let text = self.kubectl(&["get", "pods", "-n", NAMESPACE, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text).map_err(|source| Error::Json {
            what: "the pod list".into(),
            source,
        })?;
        let pods = list
            .get("items")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        for pod in &pods {
            let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
            let ours = containers.is_some_and(|all| {
                all.iter()
                    .any(|c| c.get("image").and_then(Value::as_str) == Some(OPERATOR_IMAGE))
            });
            if let (true, Some(name)) =
                (ours, pod.pointer("/metadata/name").and_then(Value::as_str))
            {
                self.kubectl(&[
                    "delete",
                    "pod",
                    "-n",
                    NAMESPACE,
                    name,
                    "--ignore-not-found",
                    "--wait=false",
                ])?;
            }
        }
        Ok(())
    }

    /// Builds the operator and loads its image into all nodes that are on; true if one of them got a new one.
    ///
    /// # Errors
    /// The step that failed.
    pub fn load_operator(&self) -> Result<bool> {
        let changed = binaries::build_operator(&self.layout)?;
        if changed || !self.layout.path("images/operator.sha256").exists() {
            images::operator(&self.layout)?;
        }
        for node in switched_on(self.options()) {
            node::exec(&node, &["/usr/local/bin/bed", "node-load-operator"])?;
        }
        Ok(changed)
    }
}
