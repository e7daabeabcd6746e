//! The programs of the bed: Kubernetes and etcd from their Go modules, the operator from this checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cmd::{progress, run_long};
use crate::error::{At, Error, Result};
use crate::layout::{Layout, Operator};

/// Folders of built programs; the folder's name changes with their content.
#[derive(Debug, Clone)]
pub struct Programs {
    /// kube-apiserver, kubelet, kubectl, …
    pub kubernetes: PathBuf,
    /// etcd, etcdctl, etcdutl.
    pub etcd: PathBuf,
    /// The sandbox's first process.
    pub pause: PathBuf,
}

/// Builds (once per content) and puts what is run on nodes and on the host into `bin/`.
///
/// # Errors
/// The build that failed.
pub fn build(layout: &Layout) -> Result<Programs> {
    let programs = Programs { etcd: go(layout, "etcd")?, kubernetes: go(layout, "kubernetes")?, pause: pause(layout)? };
    let bin = layout.path("bin");
    fs::create_dir_all(&bin).at(&bin)?;
    for (from, names) in
        [(&programs.kubernetes, &["kubectl", "kubelet", "kube-proxy"][..]), (&programs.etcd, &["etcd", "etcdctl", "etcdutl"])]
    {
        for name in names {
            place(&from.join(name), &bin.join(name))?;
        }
    }
    let own = std::env::current_exe().at(Path::new("/proc/self/exe"))?;
    // A test's own executable is no `bed`: it lies in deps/, next to which is the real one.
    let bed = if own.ends_with("bed") { own } else { bed_beside(&own)? };
    if bed != layout.bin("bed") {
        place(&bed, &layout.bin("bed"))?;
    }
    Ok(programs)
}

/// Builds (once per content) the programs of a folder of `tests/bed/go`; returns where they are.
///
/// # Errors
/// The build that failed.
pub fn go(layout: &Layout, what: &str) -> Result<PathBuf> {
    let mut command = Command::new(layout.checkout.join("tests/bed/go/build.sh"));
    command.arg(what).env("BED_CACHE", layout.cache()?);
    let out = run_long(command, &format!("tests/bed/go/build.sh {what}"))?;
    Ok(PathBuf::from(out.trim()))
}

fn bed_beside(own: &Path) -> Result<PathBuf> {
    let folders = own.ancestors().skip(1).take(2);
    folders
        .map(|d| d.join("bed"))
        .find(|p| p.is_file())
        .ok_or_else(|| Error::State(format!("no `bed` program next to {}: cargo build -p etcd-operator-bed", own.display())))
}

/// Puts a program in place by rename: the old one may be running. A hard link where possible, else a copy.
fn place(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let source = fs::metadata(from).at(from)?;
    if fs::metadata(to).is_ok_and(|m| m.ino() == source.ino() && m.dev() == source.dev()) {
        return Ok(());
    }
    let temp = to.with_extension("new");
    let _ = fs::remove_file(&temp);
    // cargo writes into its output file in place, so what it built is copied; the Go cache never changes.
    if from.components().any(|c| c.as_os_str() == "go") && fs::hard_link(from, &temp).is_ok() {
        return fs::rename(&temp, to).at(to);
    }
    fs::copy(from, &temp).at(from)?;
    fs::rename(&temp, to).at(to)
}

fn pause(layout: &Layout) -> Result<PathBuf> {
    let source = layout.checkout.join("tests/bed/go/pause");
    let main = source.join("main.go");
    let key = crate::images::digest(&fs::read(&main).at(&main)?);
    let key = key.get(..16).unwrap_or(&key);
    let dir = layout.cache()?.join("go").join(format!("pause-{key}"));
    if !dir.join("pause").is_file() {
        fs::create_dir_all(&dir).at(&dir)?;
        let temp = dir.join(".pause");
        let mut command = Command::new("go");
        command.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(&temp).arg(".");
        command.current_dir(&source).env("CGO_ENABLED", "0");
        run_long(command, "go build of tests/bed/go/pause")?;
        fs::rename(&temp, dir.join("pause")).at(&dir)?;
    }
    Ok(dir)
}

/// Builds the operator as a static binary and puts it into `bin/`. Returns whether it differs from the one there.
///
/// # Errors
/// If cargo fails.
pub fn build_operator(layout: &Layout, operator: Operator) -> Result<bool> {
    let built = compile_operator(layout, operator)?;
    let own = layout.bin("etcd-operator");
    let new = fs::read(&built).at(&built)?;
    if fs::read(&own).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    fs::create_dir_all(layout.path("bin")).at(&own)?;
    place(&built, &own)?;
    Ok(true)
}

/// Builds the operator as a static binary, and says where it is.
///
/// # Errors
/// If cargo fails.
pub fn compile_operator(layout: &Layout, operator: Operator) -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let manifest = layout.checkout.join("Cargo.toml");
    let profile = if fs::read_to_string(&manifest).at(&manifest)?.contains("[profile.bed]") { "bed" } else { "dev" };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| layout.checkout.join("target"), PathBuf::from);
    let target = layout.checkout.join(target);
    progress("building the operator (static; a cold build takes a few minutes) ...");
    let mut command = Command::new("cargo");
    command.args([
        "build",
        "--locked",
        "--profile",
        profile,
        "--target",
        &triple,
        "-p",
        operator.package(),
        "--bin",
        operator.package(),
    ]);
    command.current_dir(&layout.checkout).env("RUSTFLAGS", "-C target-feature=+crt-static");
    command.env("CARGO_TARGET_DIR", &target);
    run_long(command, "cargo build of etcd-operator")?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(target.join(&triple).join(folder).join(operator.package()))
}
