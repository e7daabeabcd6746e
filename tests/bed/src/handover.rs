//! What an installer does after the pivot: the control plane that stays, on every control node.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bed::Bed;
use crate::cmd::{progress, wait_for};
use crate::error::{At, Result};
use crate::faults::{self, Process, Signal};
use crate::layout::{API_PORT, CLUSTER, NAMESPACE, write};
use crate::{config, lb, manifests};

const LIMIT: Duration = Duration::from_secs(180);

impl Bed {
    /// Writes API server, controller manager and scheduler to each node, waits until the load balancer uses all of
    /// them, then takes the temporary ones away. They list `etcd_servers`, or what the operator published if it is
    /// empty.
    ///
    /// # Errors
    /// The step that failed; run again it goes on.
    pub fn handover(&mut self, etcd_servers: &[String]) -> Result<()> {
        let started = Instant::now();
        let servers = if etcd_servers.is_empty() { self.etcd_servers() } else { etcd_servers.to_vec() };
        progress(format!("etcd servers: {}", servers.join(",")));
        let nodes = self.options().all();
        for node in &nodes {
            for (file, manifest) in manifests::permanent(node, &servers) {
                let path = self.layout.disk(node, "etc/kubernetes/manifests").join(file);
                write(&path, config::pretty(&manifest), 0o600)?;
            }
        }
        wait_for("the new API servers", LIMIT, "bed exec NODE -- ls /var/log/pods", || {
            let ready = lb::ready_servers().map_err(|e| e.to_string())?;
            let late: Vec<_> = nodes.iter().map(|n| n.name.as_str()).filter(|n| !ready.iter().any(|r| r == n)).collect();
            if late.is_empty() { Ok(()) } else { Err(format!("not ready: {}", late.join(", "))) }
        })?;
        progress(format!("{} API servers are ready; taking the temporary control plane away", nodes.len()));
        for node in &nodes {
            config::write_kubelet_conf(&self.layout, node, &format!("https://{}:{API_PORT}", node.ip()))?;
            faults::signal(node, Process::Kubelet, Signal::Terminate)?;
        }
        let boot = self.options().boot()?;
        let folder = self.layout.disk(&boot, "etc/kubernetes/manifests");
        for (file, _) in manifests::boot(self.options(), &boot) {
            // Boot etcd's manifest is the operator's business.
            let path = folder.join(file);
            if file != "boot-etcd.yaml" && path.exists() {
                std::fs::remove_file(&path).at(&path)?;
            }
        }
        self.state.handed_over = true;
        self.state.save(&self.layout)?;
        wait_for("the temporary API server to end", LIMIT, "bed exec NODE -- ls /var/log/pods", || {
            let ready = lb::ready_servers().map_err(|e| e.to_string())?;
            let pids = faults::find(&boot, Process::KubeApiserver).map_err(|e| e.to_string())?;
            let gone = !ready.iter().any(|r| r == "boot") && pids.len() == 1;
            if gone { Ok(()) } else { Err(format!("API servers in use: {}", ready.join(", "))) }
        })?;
        self.wait_api()?;
        progress(format!("handed over in {:.1} s", started.elapsed().as_secs_f32()));
        Ok(())
    }

    /// The endpoints that the operator publishes; every seat if it publishes none.
    fn etcd_servers(&self) -> Vec<String> {
        let get = ["get", "etcdclusters.etcd.database.coreos.com", CLUSTER, "-n", NAMESPACE, "-o", "json"];
        let object: Value = self.kubectl(&get).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let listed = object.pointer("/status/endpoints").and_then(Value::as_array).cloned().unwrap_or_default();
        let listed: Vec<_> = listed.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if listed.is_empty() { manifests::seats(self.options()) } else { listed }
    }
}
