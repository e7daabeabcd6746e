//! The operator as an installer puts it in: image, one ConfigMap, `kubectl apply -k`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::cmd::{progress, wait_for};
use crate::error::{At, Error, Result};
use crate::layout::{API_URL, ETCD_IMAGE, NAMESPACE, OPERATOR_IMAGE};
use crate::state::switched_on;
use crate::{binaries, images, node};

/// How long the operator's pods may take to run.
const ROLLOUT_LIMIT: Duration = Duration::from_secs(120);

impl Bed {
    /// Builds the operator, loads its image where it changed, and applies `deploy/` with the bed's overlay.
    ///
    /// # Errors
    /// The step that failed.
    pub fn install(&self) -> Result<()> {
        let reloaded = self.load_operator()?;
        let repository = ETCD_IMAGE.rsplit_once(':').map_or(ETCD_IMAGE, |(repository, _)| repository);
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "etcd-operator", "namespace": NAMESPACE },
            "data": {
                "ETCD_OPERATOR_API_SERVERS": API_URL,
                "ETCD_OPERATOR_DEFAULT_REPOSITORY": repository,
                "ETCD_OPERATOR_ALLOWED_IMAGES": repository,
            },
        }))?;
        // The tag is the same, so nothing else makes pods that run already take a new image.
        let outdated = if reloaded { self.operator_pods()? } else { Vec::new() };
        let overlay = self.layout.checkout.join(self.options().operator.overlay());
        let out = self.kubectl(&["apply", "-k", &overlay.to_string_lossy()])?;
        out.lines().for_each(|line| progress(format!("  {line}")));
        for pod in &outdated {
            self.kubectl(&["delete", "pod", "-n", NAMESPACE, pod, "--ignore-not-found", "--wait=false"])?;
        }
        for line in out.lines().filter(|l| l.starts_with("deployment.apps/") || l.starts_with("daemonset.apps/")) {
            let object = line.split_whitespace().next().unwrap_or_default();
            let hint = format!("kubectl -n {NAMESPACE} describe {object}, and its pods' logs");
            wait_for(object, ROLLOUT_LIMIT, &hint, || {
                let status = self.kubectl(&["rollout", "status", "-n", NAMESPACE, object, "--watch=false"]);
                match status {
                    Ok(text) if text.contains("successfully rolled out") => Ok(()),
                    Ok(text) => Err(text.trim().to_owned()),
                    Err(e) => Err(e.to_string()),
                }
            })?;
        }
        progress("the operator runs");
        Ok(())
    }

    /// Another build of the operator on all nodes: the same program under another digest. Pods take it as they start anew; the ones that run
    /// stay what they are.
    ///
    /// # Errors
    /// The step that failed.
    pub fn load_another_build(&self) -> Result<()> {
        use std::io::Write as _;
        let own = self.layout.bin("etcd-operator");
        let other = self.layout.bin("etcd-operator.new");
        std::fs::copy(&own, &other).at(&other)?;
        let mut file = std::fs::File::options().append(true).open(&other).at(&other)?;
        // What follows an ELF file's last section is not looked at.
        file.write_all(b"another build").at(&other)?;
        drop(file);
        std::fs::rename(&other, &own).at(&own)?;
        images::operator(&self.layout)?;
        self.load_images()
    }

    /// Pods that run the operator's image. (Members' pods run etcd's.)
    fn operator_pods(&self) -> Result<Vec<String>> {
        let text = self.kubectl(&["get", "pods", "-n", NAMESPACE, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text).map_err(|source| Error::Json { what: "the pod list".into(), source })?;
        let pods = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let ours = pods.iter().filter(|pod| {
            let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
            let image = |c: &Value| c.get("image").and_then(Value::as_str) == Some(OPERATOR_IMAGE);
            containers.is_some_and(|all| all.iter().any(image))
        });
        let names = ours.filter_map(|pod| pod.pointer("/metadata/name").and_then(Value::as_str));
        Ok(names.map(str::to_owned).collect())
    }

    /// Builds the operator and loads its image into all nodes that are on; true if one of them got a new one.
    ///
    /// # Errors
    /// The step that failed.
    pub fn load_operator(&self) -> Result<bool> {
        let changed = binaries::build_operator(&self.layout, self.options().operator)?;
        if changed || !self.layout.path("images/operator.sha256").exists() {
            images::operator(&self.layout)?;
        }
        self.load_images()?;
        Ok(changed)
    }

    /// Loads another etcd into all nodes that are on, under the bed's repository: `what` is a folder of `tests/bed/go`, `tag` the image's.
    ///
    /// # Errors
    /// The step that failed.
    pub fn load_etcd(&self, what: &str, tag: &str) -> Result<()> {
        let archive = images::etcd(&self.layout, &binaries::go(&self.layout, what)?, tag)?;
        let import = ["ctr", "-n", "k8s.io", "images", "import", &archive.to_string_lossy()];
        switched_on(self.options()).iter().try_for_each(|node| node::exec(node, &import).map(drop))
    }

    fn load_images(&self) -> Result<()> {
        switched_on(self.options())
            .iter()
            .try_for_each(|node| node::exec(node, &["/usr/local/bin/bed", "node-load-operator"]).map(drop))
    }
}
