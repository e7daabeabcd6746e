//! `etcdserverpb.Cluster/MemberList` with `linearizable`, which etcd-client leaves out. Field numbers from etcd's `rpc.proto`.

use tonic::transport::Channel;

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct MemberListRequest {
    #[prost(bool, tag = "1")]
    linearizable: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ResponseHeader {
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    #[prost(int64, tag = "3")]
    pub revision: i64,
    #[prost(uint64, tag = "4")]
    pub raft_term: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct MemberMessage {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub client_urls: Vec<String>,
    #[prost(bool, tag = "5")]
    pub is_learner: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct MemberListResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<MemberMessage>,
}

pub(crate) async fn member_list(channel: Channel) -> Result<MemberListResponse, tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|e| tonic::Status::from_error(Box::new(e)))?;
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.Cluster/MemberList");
    let codec = tonic_prost::ProstCodec::<MemberListRequest, MemberListResponse>::default();
    let request = tonic::Request::new(MemberListRequest { linearizable: true });
    grpc.unary(request, path, codec).await.map(tonic::Response::into_inner)
}
