//! The two calls of etcd's gRPC API that the witness makes, with stubs of its own.
//!
//! Field numbers are those of etcd's `rpc.proto`; fields that no check uses are left out.

use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::options::{BedEtcdClient, WitnessError, read};

/// Longest that one call may take. A member that needs longer is not serving anyone.
pub const CALL: Duration = Duration::from_secs(1);

#[derive(Clone, PartialEq, Message)]
pub struct Header {
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    #[prost(int64, tag = "3")]
    pub revision: i64,
    #[prost(uint64, tag = "4")]
    pub raft_term: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(uint64, tag = "4")]
    pub leader: u64,
    #[prost(uint64, tag = "5")]
    pub raft_index: u64,
    #[prost(uint64, tag = "6")]
    pub raft_term: u64,
    #[prost(string, repeated, tag = "8")]
    pub errors: Vec<String>,
    #[prost(bool, tag = "10")]
    pub is_learner: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct MemberListRequest {
    #[prost(bool, tag = "1")]
    pub linearizable: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct WireMember {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "4")]
    pub client_urls: Vec<String>,
    #[prost(bool, tag = "5")]
    pub is_learner: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct MemberListResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<WireMember>,
}

/// Client certificate for etcd, PEM.
#[derive(Clone)]
pub struct Credentials {
    ca: Certificate,
    identity: Identity,
}

impl Credentials {
    /// Reads the files.
    pub fn read(files: &BedEtcdClient) -> Result<Self, WitnessError> {
        Ok(Credentials {
            ca: Certificate::from_pem(read(&files.ca)?),
            identity: Identity::from_pem(read(&files.cert)?, read(&files.key)?),
        })
    }
}

/// A connection to one member; opened when first used, and again when it broke.
#[derive(Clone)]
pub struct Connection(Channel);

impl Connection {
    /// Prepares the connection.
    pub fn lazy(url: &str, credentials: &Credentials) -> Result<Self, tonic::transport::Error> {
        let mut endpoint = Endpoint::from_shared(url.to_string())?.connect_timeout(CALL).timeout(CALL).tcp_nodelay(true);
        if url.starts_with("https://") {
            let tls = ClientTlsConfig::new().ca_certificate(credentials.ca.clone()).identity(credentials.identity.clone());
            endpoint = endpoint.tls_config(tls)?;
        }
        Ok(Connection(endpoint.connect_lazy()))
    }

    /// `Status` of this member: served without quorum, and by learners.
    pub async fn status(&self) -> Result<StatusResponse, tonic::Status> {
        self.call("/etcdserverpb.Maintenance/Status", StatusRequest {}).await
    }

    /// The member list as the quorum has it.
    pub async fn member_list(&self) -> Result<MemberListResponse, tonic::Status> {
        self.call("/etcdserverpb.Cluster/MemberList", MemberListRequest { linearizable: true }).await
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, tonic::Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await.map(tonic::Response::into_inner)
    }
}
