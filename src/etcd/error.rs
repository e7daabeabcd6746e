//! One classifier for etcd's untyped errors. The texts are etcd's own (`api/v3rpc/rpctypes/error.go`, 3.5 to 3.7).

use tonic::{Code, Status};

/// What a call to etcd ended with.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Certificates or the endpoint's URL cannot be used.
    #[error("{endpoint}: {why}; check the URL and the certificates")]
    Config {
        /// The endpoint.
        endpoint: String,
        /// What is wrong.
        why: String,
    },
    /// etcd answered with an error, or not at all.
    #[error("{endpoint}: {call}: {message}")]
    Call {
        /// The endpoint.
        endpoint: String,
        /// The call.
        call: &'static str,
        /// What kind of error it is.
        kind: ErrorKind,
        /// etcd's or gRPC's own words.
        message: String,
    },
    /// A snapshot did not arrive whole, or could not be written.
    #[error("{endpoint}: snapshot: {why}")]
    Snapshot {
        /// The endpoint.
        endpoint: String,
        /// What is wrong.
        why: String,
    },
}

impl EtcdError {
    /// The kind, where the error came from a call.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Call { kind, .. } => *kind,
            Self::Config { .. } | Self::Snapshot { .. } => ErrorKind::Other,
        }
    }
}

/// What an error means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No connection, or the server went away: says nothing about whether the call was applied.
    Unreachable,
    /// No answer in time: the call may have been applied.
    Timeout,
    /// The member (or the ID) is not in the cluster.
    MemberNotFound,
    /// A member with this peer URL is listed already: list before adding again.
    PeerUrlExists,
    /// The learner has not caught up.
    LearnerNotReady,
    /// The member is a voter already.
    NotLearner,
    /// The strict check: a voter has not been connected for 5 s.
    UnhealthyCluster,
    /// `--max-learners` is reached.
    TooManyLearners,
    /// The call must be sent to the leader.
    NotLeader,
    /// There is no leader at the moment.
    NoLeader,
    /// A learner cannot serve this call.
    LearnerCannotServe,
    /// Whoever asks may not: etcd's own authentication is on.
    Denied,
    /// Anything else, see the message.
    Other,
}

impl ErrorKind {
    /// As a label of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::MemberNotFound => "member_not_found",
            Self::PeerUrlExists => "peer_url_exists",
            Self::LearnerNotReady => "learner_not_ready",
            Self::NotLearner => "not_learner",
            Self::UnhealthyCluster => "unhealthy_cluster",
            Self::TooManyLearners => "too_many_learners",
            Self::NotLeader => "not_leader",
            Self::NoLeader => "no_leader",
            Self::LearnerCannotServe => "learner_cannot_serve",
            Self::Denied => "denied",
            Self::Other => "other",
        }
    }
}

/// Kind of a gRPC status.
#[must_use]
pub fn classify(status: &Status) -> ErrorKind {
    let text = status.message();
    let table = [
        ("member not found", ErrorKind::MemberNotFound),
        ("Peer URLs already exists", ErrorKind::PeerUrlExists),
        ("can only promote a learner member which is in sync", ErrorKind::LearnerNotReady),
        ("can only promote a learner", ErrorKind::NotLearner),
        ("unhealthy cluster", ErrorKind::UnhealthyCluster),
        ("re-configuration failed due to not enough started members", ErrorKind::UnhealthyCluster),
        ("too many learner members", ErrorKind::TooManyLearners),
        ("not leader", ErrorKind::NotLeader),
        ("no leader", ErrorKind::NoLeader),
        ("rpc not supported for learner", ErrorKind::LearnerCannotServe),
        ("request timed out", ErrorKind::Timeout),
    ];
    if let Some((_, kind)) = table.iter().find(|(needle, _)| text.contains(needle)) {
        return *kind;
    }
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => ErrorKind::Timeout,
        Code::Unavailable => ErrorKind::Unreachable,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
        // tonic reports a broken transport as Unknown or Internal, with its own words.
        Code::Unknown | Code::Internal if text.contains("transport error") || text.contains("h2 protocol error") => {
            ErrorKind::Unreachable
        }
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_etcd_are_told_apart() {
        let cases = [
            (Code::NotFound, "etcdserver: member not found", ErrorKind::MemberNotFound),
            (Code::FailedPrecondition, "etcdserver: Peer URLs already exists", ErrorKind::PeerUrlExists),
            (
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
                ErrorKind::LearnerNotReady,
            ),
            (Code::FailedPrecondition, "etcdserver: can only promote a learner member", ErrorKind::NotLearner),
            (Code::Unavailable, "etcdserver: unhealthy cluster", ErrorKind::UnhealthyCluster),
            (Code::FailedPrecondition, "etcdserver: too many learner members in cluster", ErrorKind::TooManyLearners),
            (Code::FailedPrecondition, "etcdserver: not leader", ErrorKind::NotLeader),
            (Code::Unavailable, "etcdserver: no leader", ErrorKind::NoLeader),
            (Code::Unavailable, "etcdserver: request timed out", ErrorKind::Timeout),
            (Code::Unavailable, "tcp connect error", ErrorKind::Unreachable),
            (Code::Unknown, "transport error", ErrorKind::Unreachable),
            (Code::PermissionDenied, "nope", ErrorKind::Denied),
            (Code::Internal, "nope", ErrorKind::Other),
        ];
        for (code, text, kind) in cases {
            assert_eq!(classify(&Status::new(code, text)), kind, "{text}");
        }
    }
}
