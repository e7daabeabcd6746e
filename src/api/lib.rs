//! The API types of `etcd.database.coreos.com/v1beta2`, their validation and conditions. No IO.

pub mod backup;
pub mod boot_command;
pub mod cluster;
pub mod condition;
pub mod member;

pub use backup::{EtcdBackup, EtcdBackupSpec, EtcdBackupStatus};
pub use cluster::{EtcdCluster, EtcdClusterSpec, EtcdClusterStatus};
pub use member::{EtcdMember, EtcdMemberSpec, EtcdMemberStatus};

/// The CRDs as YAML, by file name under `crds/`.
#[must_use]
pub fn crds() -> Vec<(&'static str, k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition)>
{
    use kube::CustomResourceExt;
    vec![
        ("etcdbackups.yaml", EtcdBackup::crd()),
        ("etcdclusters.yaml", EtcdCluster::crd()),
        ("etcdmembers.yaml", EtcdMember::crd()),
    ]
}
