//! The first process of a node: lays out its file system, then runs containerd, kubelet and kube-proxy like an init
//! system would. When it dies, the kernel kills all the rest of the node.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cmd::{progress, run};
use crate::error::{At, Error, Result};
use crate::layout::{Layout, Node, Options, RUN};

/// A service is started again this long after its end, as systemd would (kubeadm's kubelet: 10 s).
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Never returns while the node is on.
///
/// # Errors
/// If the node cannot be set up.
pub fn main(layout: &Layout, options: &Options, node: &Node) -> Result<()> {
    if std::process::id() != 1 {
        return Err(Error::State("node-init is the first process of a node: bed start NODE".into()));
    }
    rustix::system::sethostname(node.name.as_bytes()).map_err(|e| Error::State(format!("sethostname: {e}")))?;
    file_system(layout, options, node)?;
    supervise(&services(node))
}

/// Root is the host's, seen through an overlay whose upper side is memory, so that nothing a node writes outside of its
/// disk reaches the host. The disk is bound over it at the places that last.
fn file_system(layout: &Layout, options: &Options, node: &Node) -> Result<()> {
    let hierarchies = crate::cgroup::hierarchies()?;
    let base = Path::new(RUN).join("root").join(&node.name);
    mount(&["-t", "tmpfs", "-o", "mode=755", "etcdbed"], &base)?;
    let (upper, work, root) = (base.join("upper"), base.join("work"), base.join("root"));
    for dir in [&upper, &work, &root] {
        fs::create_dir_all(dir).at(dir)?;
    }
    let overlay = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    mount(&["-t", "overlay", "-o", &overlay, "overlay"], &root)?;

    let at = |path: &str| root.join(path);
    let bind = |from: PathBuf, to: &str, extra: &[&str]| -> Result<()> {
        let to = at(to);
        fs::create_dir_all(&to).at(&to)?;
        let from = from.to_string_lossy().into_owned();
        mount(&["--bind", &from], &to)?;
        if extra.is_empty() { Ok(()) } else { mount(extra, &to) }
    };
    bind(layout.disk(node, "var/lib"), "var/lib", &[])?;
    bind(layout.disk(node, "var/log"), "var/log", &[])?;
    bind(layout.disk(node, "etc/kubernetes"), "etc/kubernetes", &[])?;
    bind(layout.path("bin"), "usr/local/bin", &["-o", "remount,bind,ro"])?;
    mount(&["-t", "tmpfs", "-o", "mode=755", "run"], &at("run"))?;
    mount(&["-t", "tmpfs", "-o", "mode=1777", "tmp"], &at("tmp"))?;
    let images = layout.path("images");
    fs::create_dir_all(&images).at(&images)?;
    bind(images, "run/bed/images", &["-o", "remount,bind,ro"])?;
    let shared = layout.shared();
    fs::create_dir_all(&shared).at(&shared)?;
    bind(shared, "run/bed/shared", &[])?;
    mount(&["-t", "proc", "proc"], &at("proc"))?;
    mount(&["-t", "sysfs", "sysfs"], &at("sys"))?;
    mount(&["--rbind", "/dev"], &at("dev"))?;
    mount(&["-t", "tmpfs", "-o", "mode=1777", "shm"], &at("dev/shm"))?;
    cgroups(&hierarchies, &at("sys/fs/cgroup"))?;

    let names: String = options.all().iter().map(|n| format!("{} {}\n", n.ip(), n.name)).collect();
    for (file, text) in [
        ("etc/hostname", format!("{}\n", node.name)),
        ("etc/hosts", format!("127.0.0.1 localhost\n{names}")),
        // The host's may be a link into its /run.
        ("etc/resolv.conf", "# no DNS in the bed\n".to_owned()),
    ] {
        let path = at(file);
        let _ = fs::remove_file(&path);
        fs::write(&path, text).at(&path)?;
    }

    let old = at("run/old-root");
    fs::create_dir_all(&old).at(&old)?;
    rustix::process::pivot_root(&root, &old).map_err(|e| Error::State(format!("pivot_root: {e}")))?;
    std::env::set_current_dir("/").at(Path::new("/"))?;
    run(&["umount", "--lazy", "/run/old-root"])?;
    let _ = fs::remove_dir("/run/old-root");
    // Mounts that a pod makes with Bidirectional propagation must be seen by others.
    mount(&["--make-rshared"], Path::new("/"))
}

fn mount(args: &[&str], target: &Path) -> Result<()> {
    let mut command = vec!["mount"];
    command.extend(args);
    let target = target.to_string_lossy();
    command.push(&target);
    run(&command).map(|_| ())
}

/// The node's own cgroups: in its cgroup namespace each hierarchy's root is the node's folder.
fn cgroups(hierarchies: &[crate::cgroup::Hierarchy], target: &Path) -> Result<()> {
    if hierarchies.iter().any(|h| h.options.is_none()) {
        mount(&["-t", "cgroup2", "cgroup2"], target)?;
        let init = target.join("init");
        fs::create_dir_all(&init).at(&init)?;
        let procs = init.join("cgroup.procs");
        fs::write(&procs, "1").at(&procs)?;
        // The launcher, which the host still has to move away, holds this up for a moment.
        return crate::cmd::wait_for("cgroup controllers", Duration::from_secs(10), "the kernel", || {
            crate::cgroup::enable_controllers(target).map_err(|e| e.to_string())
        });
    }
    mount(&["-t", "tmpfs", "-o", "mode=755", "cgroup"], target)?;
    for h in hierarchies {
        let Some(options) = &h.options else { continue };
        let name = h.mount.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let dir = target.join(name);
        fs::create_dir_all(&dir).at(&dir)?;
        mount(&["-t", "cgroup", "-o", options, "cgroup"], &dir)?;
    }
    Ok(())
}

struct Service {
    name: &'static str,
    command: Vec<String>,
}

fn services(node: &Node) -> Vec<Service> {
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect();
    vec![
        Service { name: "containerd", command: words("containerd --config /etc/kubernetes/containerd.toml".into()) },
        Service {
            name: "kubelet",
            command: words(format!(
                "/usr/local/bin/kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubelet.conf \
                 --hostname-override={} --node-ip={} --node-labels=topology.kubernetes.io/zone={}",
                node.name,
                node.ip(),
                node.zone()
            )),
        },
        Service {
            name: "kube-proxy",
            command: words("/usr/local/bin/kube-proxy --config=/etc/kubernetes/kube-proxy.yaml".into()),
        },
    ]
}

/// Starts the services, starts them again when they end, and reaps every orphan of the node.
fn supervise(services: &[Service]) -> Result<()> {
    let mut running: BTreeMap<i32, usize> = BTreeMap::new();
    let mut due: Vec<(Instant, usize)> = (0..services.len()).map(|i| (Instant::now(), i)).collect();
    loop {
        let now = Instant::now();
        let (ready, later): (Vec<_>, Vec<_>) = due.into_iter().partition(|(when, _)| *when <= now);
        due = later;
        for (_, index) in ready {
            let Some(service) = services.get(index) else {
                continue;
            };
            match start(service) {
                Ok(pid) => {
                    running.insert(pid, index);
                }
                Err(e) => {
                    progress(format!("{}: {e}", service.name));
                    due.push((now + RESTART_AFTER, index));
                }
            }
        }
        // Without a child that ends nothing wakes this loop up, so it looks 20 times a second.
        while let Ok(Some((pid, status))) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            if let Some(index) = running.remove(&pid.as_raw_nonzero().get()) {
                let name = services.get(index).map_or("?", |s| s.name);
                progress(format!("{name} ended: {status:?}"));
                due.push((Instant::now() + RESTART_AFTER, index));
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn start(service: &Service) -> Result<i32> {
    if service.name == "kubelet" {
        prepare_images()?;
    }
    let log = PathBuf::from(format!("/var/log/{}.log", service.name));
    let out = fs::File::options().create(true).append(true).open(&log).at(&log)?;
    let (program, args) = service.command.split_first().ok_or_else(|| Error::State("a service without a command".into()))?;
    let child = Command::new(program)
        .args(args)
        .env("PATH", "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .stdout(out.try_clone().at(&log)?)
        .stderr(out)
        .spawn()
        .at(Path::new(program))?;
    progress(format!("{} started", service.name));
    i32::try_from(child.id()).map_err(|e| Error::State(e.to_string()))
}

/// Waits for containerd and loads the operator's image if it changed since this node's last start.
fn prepare_images() -> Result<()> {
    crate::cmd::wait_for("containerd", Duration::from_secs(20), "/var/log/containerd.log", || {
        let socket = Path::new("/run/containerd/containerd.sock");
        std::os::unix::net::UnixStream::connect(socket).map(|_| ()).map_err(|e| e.to_string())
    })?;
    load_operator(Path::new("/run/bed/images"))
}

/// Imports the operator's image into this node's containerd, unless it has it.
///
/// # Errors
/// If the import fails.
pub fn load_operator(images: &Path) -> Result<()> {
    let Ok(wanted) = fs::read_to_string(images.join("operator.sha256")) else {
        return Ok(());
    };
    let marker = Path::new("/var/lib/containerd/bed-operator.sha256");
    if fs::read_to_string(marker).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    let archive = images.join("operator.tar");
    run(&["ctr", "-n", "k8s.io", "images", "import", &archive.to_string_lossy()])?;
    fs::write(marker, wanted).at(marker)
}
