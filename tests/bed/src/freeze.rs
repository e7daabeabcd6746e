//! Frozen copies of all nodes' disks, from which a scenario starts in seconds.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bed::{Bed, clean_machine, remove, remove_files};
use crate::cmd::{self, progress, run};
use crate::error::{At, Error, Result};
use crate::layout::Layout;
use crate::state::State;
use crate::{binaries, images, node, prereq, state};

/// Not copied: image content is the same on all nodes and comes from the cache, and dead containers are of no use.
const CONTAINERD: &str = "containerd";
/// What else belongs to a bed.
const FILES: [&str; 2] = ["admin.kubeconfig", "state.json"];

impl Bed {
    /// Cuts the power of all nodes and keeps a copy of their disks under `name`. The nodes are off afterwards.
    ///
    /// # Errors
    /// The step that failed.
    pub fn freeze(&self, name: &str) -> Result<()> {
        let target = folder(&self.layout, name)?;
        let _lock = state::lock()?;
        let nodes = self.options().all();
        node::power_cut_all(&nodes)?;
        let temp = target.with_extension("new");
        for old in [&temp, &target] {
            if old.exists() {
                fs::remove_dir_all(old).at(old)?;
            }
        }
        for node in &nodes {
            copy_disk(&self.layout.disk(node, ""), &temp.join("nodes").join(&node.name))?;
        }
        copy(&self.layout.path("pki"), &temp.join("pki"))?;
        for file in FILES {
            copy(&self.layout.path(file), &temp.join(file))?;
        }
        fs::rename(&temp, &target).at(&target)?;
        progress(format!("frozen as {name}; nodes are off (bed start --all, or bed thaw {name})"));
        Ok(())
    }

    /// Puts the frozen disks back, whatever the bed's state is now (also none), and switches all nodes on.
    ///
    /// # Errors
    /// The step that failed.
    pub fn thaw(layout: Layout, name: &str) -> Result<Self> {
        let source = folder(&layout, name)?;
        if !source.join("state.json").exists() {
            return Err(Error::State(format!("nothing is frozen as {name}: bed freeze {name}")));
        }
        prereq::check(&layout)?;
        let programs = binaries::build(&layout)?;
        let lock = state::lock()?;
        let thawed = Self::put_back(&layout, &source, &programs);
        if matches!(thawed, Err(Error::Interrupted)) {
            cmd::clear_interrupt();
            remove(&layout, lock)?;
            progress("cleaned up");
        }
        thawed
    }

    fn put_back(layout: &Layout, source: &Path, programs: &binaries::Programs) -> Result<Self> {
        clean_machine()?;
        remove_files(&layout.dir)?;
        state::claim(layout)?;
        prereq::raise_sysctls()?;
        let store = images::seed(layout, programs)?;
        copy(&source.join("pki"), &layout.path("pki"))?;
        for file in FILES {
            copy(&source.join(file), &layout.path(file))?;
        }
        copy(&source.join("nodes"), &layout.path("nodes"))?;
        let state = State::load(layout)?;
        // Paths in bed.json are those of this checkout.
        state.save(layout)?;
        let bed = Self { layout: layout.clone(), state };
        let nodes = bed.options().all();
        for node in &nodes {
            images::link_store(&store, &bed.layout.disk(node, "var/lib/containerd"))?;
        }
        bed.create_network()?;
        let since = crate::now();
        bed.start(&nodes)?;
        let took = bed.wait_api()?;
        progress(format!("the API is ready ({:.1} s after the nodes were switched on)", took.as_secs_f32()));
        bed.wait_nodes_ready(&nodes, Some(&since))?;
        state::set_complete()?;
        Ok(bed)
    }

    /// Whether something is frozen under that name.
    #[must_use]
    pub fn is_frozen(layout: &Layout, name: &str) -> bool {
        folder(layout, name).is_ok_and(|f| f.join("state.json").exists())
    }
}

fn folder(layout: &Layout, name: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(Error::State(format!("`{name}`: a name has letters, digits, - and _ only")));
    }
    let frozen = layout.path("frozen");
    fs::create_dir_all(&frozen).at(&frozen)?;
    Ok(frozen.join(name))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    run(&["cp", "-a", "--reflink=auto", &from, &to]).map(|_| ())
}

fn copy_disk(from: &Path, to: &Path) -> Result<()> {
    for part in ["var/lib", "var/log", "etc"] {
        let (source, target) = (from.join(part), to.join(part));
        fs::create_dir_all(&target).at(&target)?;
        for entry in fs::read_dir(&source).at(&source)?.flatten() {
            if entry.file_name() != CONTAINERD {
                copy(&entry.path(), &target.join(entry.file_name()))?;
            }
        }
    }
    Ok(())
}
