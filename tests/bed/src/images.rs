//! Images without a registry and without docker: a layer, a config and a manifest in one tar (docker-archive), and a
//! containerd store that holds them already unpacked, from which each node's store is hard-linked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::binaries::Programs;
use crate::cmd::{progress, run, wait_for};
use crate::error::{At, Error, Result};
use crate::layout::{ETCD_IMAGE, KUBE_IMAGE, Layout, OPERATOR_IMAGE, PAUSE_IMAGE, RUN, write};

/// Changes when the way images are made changes, so that old stores in the cache are not used.
const VERSION: &str = "1";

/// SHA-256 as hex.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

struct Image<'a> {
    name: &'a str,
    /// Path in the image, file on the host.
    files: Vec<(String, PathBuf)>,
    entrypoint: Option<&'a str>,
}

/// Makes (once per content) the store with etcd's, Kubernetes' and the sandbox's image; returns its folder.
///
/// # Errors
/// The step that failed.
pub fn seed(layout: &Layout, programs: &Programs) -> Result<PathBuf> {
    let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let parts = [VERSION.to_owned(), name(&programs.kubernetes), name(&programs.etcd), name(&programs.pause)];
    let key = digest(parts.join("\n").as_bytes());
    let store = layout.cache()?.join(format!("images-{}", key.get(..16).unwrap_or(&key)));
    if store.join("complete").exists() {
        return Ok(store.join("containerd"));
    }
    progress("making images (once per version, about 20 s) ...");
    let _ = fs::remove_dir_all(&store);
    let work = store.join("work");
    fs::create_dir_all(&work).at(&work)?;
    let at_bin = |dir: &Path, names: &[&str]| -> Vec<(String, PathBuf)> {
        names.iter().map(|n| (format!("usr/local/bin/{n}"), dir.join(n))).collect()
    };
    let images = [
        Image { name: ETCD_IMAGE, files: at_bin(&programs.etcd, &["etcd", "etcdctl", "etcdutl"]), entrypoint: None },
        Image {
            name: KUBE_IMAGE,
            files: at_bin(&programs.kubernetes, &["kube-apiserver", "kube-controller-manager", "kube-scheduler"]),
            entrypoint: None,
        },
        Image { name: PAUSE_IMAGE, files: vec![("pause".into(), programs.pause.join("pause"))], entrypoint: Some("/pause") },
    ];
    let mut archives = Vec::new();
    for (index, image) in images.iter().enumerate() {
        let archive = work.join(format!("{index}.tar"));
        build(image, &work.join(index.to_string()), &archive)?;
        archives.push(archive);
    }
    import_into_store(&store.join("containerd"), &archives)?;
    fs::remove_dir_all(&work).at(&work)?;
    write(&store.join("complete"), "", 0o644)?;
    Ok(store.join("containerd"))
}

/// Makes the operator's image from `bin/etcd-operator`; the node loads it at its next start or by `install`.
///
/// # Errors
/// The step that failed.
pub fn operator(layout: &Layout) -> Result<()> {
    let dir = layout.path("images");
    fs::create_dir_all(&dir).at(&dir)?;
    let binary = layout.bin("etcd-operator");
    let image = Image { name: OPERATOR_IMAGE, files: vec![("etcd-operator".into(), binary)], entrypoint: Some("/etcd-operator") };
    let temp = dir.join(".operator.tar");
    build(&image, &dir.join(".operator"), &temp)?;
    let sum = run(&["sha256sum".as_ref(), temp.as_os_str()])?;
    fs::rename(&temp, dir.join("operator.tar")).at(&temp)?;
    write(&dir.join("operator.sha256"), sum.split_whitespace().next().unwrap_or_default(), 0o644)
}

/// Makes an image of another etcd, under the bed's repository and this tag; returns the archive, as a node sees it.
///
/// # Errors
/// The step that failed.
pub fn etcd(layout: &Layout, programs: &Path, tag: &str) -> Result<PathBuf> {
    let dir = layout.path("images");
    fs::create_dir_all(&dir).at(&dir)?;
    let repository = ETCD_IMAGE.rsplit_once(':').map_or(ETCD_IMAGE, |(repository, _)| repository);
    let (name, file) = (format!("{repository}:{tag}"), format!("etcd-{tag}.tar"));
    let image = Image { name: &name, files: vec![("usr/local/bin/etcd".into(), programs.join("etcd"))], entrypoint: None };
    build(&image, &dir.join(format!(".etcd-{tag}")), &dir.join(&file))?;
    Ok(Path::new("/run/bed/images").join(file))
}

/// Writes a docker-archive.
fn build(image: &Image<'_>, stage: &Path, archive: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(stage);
    let root = stage.join("root");
    for (inside, file) in &image.files {
        let target = root.join(inside);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).at(parent)?;
        }
        if fs::hard_link(file, &target).is_err() {
            fs::copy(file, &target).at(file)?;
        }
    }
    let tar = |out: &Path, dir: &Path, names: &[&str]| -> Result<()> {
        let mut command: Vec<std::ffi::OsString> =
            ["tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--mode=u+rw,go+rX,go-w"]
                .iter()
                .map(Into::into)
                .collect();
        command.extend(["-cf".into(), out.into(), "-C".into(), dir.into()]);
        command.extend(names.iter().map(Into::into));
        run(&command).map(|_| ())
    };
    let top: Vec<String> =
        fs::read_dir(&root).at(&root)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let top: Vec<&str> = top.iter().map(String::as_str).collect();
    let layer = stage.join("layer.tar");
    tar(&layer, &root, &top)?;
    // sha256sum and not our own: a debug build would take a minute for Kubernetes' layer.
    let sum = run(&["sha256sum".as_ref(), layer.as_os_str()])?;
    let sum = sum.split_whitespace().next().unwrap_or_default().to_owned();
    let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let mut config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Env": ["PATH=/usr/local/bin:/"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z" }],
    });
    if let (Some(entrypoint), Some(inner)) =
        (image.entrypoint, config.get_mut("config").and_then(serde_json::Value::as_object_mut))
    {
        inner.insert("Entrypoint".into(), json!([entrypoint]));
    }
    write(&stage.join("config.json"), config.to_string(), 0o644)?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [image.name], "Layers": ["layer.tar"] }]);
    write(&stage.join("manifest.json"), manifest.to_string(), 0o644)?;
    tar(archive, stage, &["manifest.json", "config.json", "layer.tar"])?;
    fs::remove_dir_all(stage).at(stage)
}

/// Runs a containerd on the host for as long as the import takes.
fn import_into_store(root: &Path, archives: &[PathBuf]) -> Result<()> {
    let state = Path::new(RUN).join("seed");
    fs::create_dir_all(&state).at(&state)?;
    let socket = state.join("containerd.sock");
    let config = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
         \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.aufs\", \
         \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\"]\n[grpc]\naddress = \"{}\"\n\
         [ttrpc]\naddress = \"{}.ttrpc\"\n",
        root.display(),
        state.display(),
        socket.display(),
        socket.display()
    );
    let file = state.join("config.toml");
    write(&file, config, 0o644)?;
    let log = state.join("log");
    let out = fs::File::create(&log).at(&log)?;
    let mut containerd = Command::new("containerd")
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(out)
        .spawn()
        .map_err(|e| Error::State(format!("containerd: {e}")))?;
    let address = socket.to_string_lossy().into_owned();
    let work = || -> Result<()> {
        wait_for("containerd of the image store", Duration::from_secs(20), &log.to_string_lossy(), || {
            run(&["ctr", "--address", &address, "version"]).map_err(|e| e.to_string())
        })?;
        for archive in archives {
            let archive = archive.to_string_lossy();
            run(&["ctr", "--address", &address, "-n", "k8s.io", "images", "import", &archive])?;
        }
        Ok(())
    };
    let done = work();
    let _ = containerd.kill();
    let _ = containerd.wait();
    if done.is_ok() {
        let _ = fs::remove_dir_all(&state);
    }
    done
}

/// Copies the store for a node: hard links for image content, which nobody changes in place, copies of the databases.
///
/// # Errors
/// The file that could not be linked or copied.
pub fn link_store(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).at(to)?;
    fs::set_permissions(to, fs::metadata(from).at(from)?.permissions()).at(to)?;
    for entry in fs::read_dir(from).at(from)? {
        let entry = entry.at(from)?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().at(&path)?;
        if kind.is_dir() {
            link_store(&path, &target)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&path).at(&path)?;
            std::os::unix::fs::symlink(link, &target).at(&target)?;
        } else if path.extension().is_some_and(|e| e == "db") || fs::hard_link(&path, &target).is_err() {
            fs::copy(&path, &target).at(&path)?;
        }
    }
    Ok(())
}
