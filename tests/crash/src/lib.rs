//! The shipped controller and agent with a fault in their own calls. Everything that they ask of the Kubernetes API, of etcd and of the
//! node's processes passes a [`door::Door`]; a scenario writes a [`plan::Entry`] for the call at which the process is to die or to stand
//! still, and reads in [`plan::Shared::met`] that it did. The code behind the doors is the shipped one: nothing in `src/` knows of this.

pub mod api;
pub mod door;
pub mod etcd;
pub mod host;
pub mod plan;
