//! What a controller remembers between passes. All of it may be lost at any time: it is then read or checked again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use etcd_operator_etcd::client::Tls;
use etcd_operator_etcd::dial::{Dial, Endpoint};
use etcd_operator_plan::{Absences, Gate, NodeName, Progress, RemoteClient, Step};
use k8s_openapi::api::core::v1::Node;

use super::corrupt::Compared;
use super::guards::{GuardImage, Guarded};
use crate::pki::Ca;

/// Shared between the passes of one cluster, of which there is one at a time.
pub(crate) type Shared = Arc<tokio::sync::Mutex<Memory>>;

/// Memory of one cluster.
pub(crate) struct Memory {
    /// Since when this is kept, ms: what was said before says nothing of now.
    pub(crate) since_ms: u64,
    /// Why a new cluster cannot be taken over yet.
    pub(crate) not_taken_over: Option<String>,
    /// The UID of the EtcdCluster that this is about: another one of the same name is another cluster.
    pub(crate) uid: Option<String>,
    /// When the last pass began, ms.
    pub(crate) last_ms: u64,
    /// The turn of leading that it belongs to: what was seen in an earlier one is of somebody else's time.
    pub(crate) turn: u64,
    /// The way to etcd.
    pub(crate) dial: Arc<dyn Dial>,
    /// The CA and our own client certificate, keyed by the Secret's resourceVersion.
    pub(crate) ca: Option<(String, Arc<Ca>, Tls)>,
    /// One client per endpoint: channels are kept open.
    pub(crate) clients: HashMap<String, Arc<dyn Endpoint>>,
    /// Nodes, and when they were read (ms).
    pub(crate) nodes: Option<(u64, Vec<Node>)>,
    /// Lag of each member: when, and how much; the newest two samples.
    pub(crate) lags: HashMap<u64, Vec<(u64, u64)>>,
    /// Since when each member has answered without a break (ms).
    pub(crate) healthy_since: HashMap<u64, u64>,
    /// Voters that are down, and nodes of seats that are away.
    pub(crate) absences: Absences<NodeName>,
    /// How often in a row a keeper left an order to stop its member unanswered, by member ID.
    pub(crate) drains_in_vain: HashMap<u64, u32>,
    /// Agents that were asked whether a member's data is really gone, by member ID: the nonce before that, and whether a later one came back
    /// with a yes.
    pub(crate) losses: HashMap<u64, (String, bool)>,
    /// Agents that were asked whether their node still has its member's address, by node: the nonce before that.
    pub(crate) moved: HashMap<String, String>,
    /// How each learner gets on.
    pub(crate) progress: HashMap<u64, Progress>,
    /// The last check of the gate, and for which member IDs.
    pub(crate) gate: Option<(Vec<u64>, Gate)>,
    /// The last comparison of the stores.
    pub(crate) stores: Option<Compared>,
    /// When this process removed a member for its store last, ms.
    pub(crate) removed_ms: Option<u64>,
    /// When this process took etcd's alarm back last, ms.
    pub(crate) disarmed_ms: Option<u64>,
    /// Steps that no Event could tell of when they were taken.
    pub(crate) untold: Vec<Step>,
    /// The preflight under way: its ID, and when it was asked for (ms).
    pub(crate) preflight: Option<(String, u64)>,
    /// Since when something is missing that must be there before members are restarted with another image, ms.
    pub(crate) preparing_since: Option<u64>,
    /// What failed in the preflight before it, which is being repeated.
    pub(crate) preflight_failed: Option<String>,
    /// A step that was refused in a way that passes.
    pub(crate) refused: Option<Refused>,
    /// Since when a life of the cluster answers that follows the one of the status, which does not, ms.
    pub(crate) life_since: Option<u64>,
    /// Since when etcd has not answered this replica while the API did, and when that was seen last, ms.
    pub(crate) etcd_silent: Option<(u64, u64)>,
    /// Since when boot has been seen signalled, ms.
    pub(crate) signalled_since: Option<u64>,
    /// The endpoints that this process has published.
    pub(crate) published: Vec<String>,
    /// Port and endpoints behind the Service that this process has published, and when, ms.
    pub(crate) served: Option<((u16, Vec<String>), u64)>,
    /// The image of guards: `None` = not looked for, `Some(None)` = there is none.
    pub(crate) guard_image: Option<Option<GuardImage>>,
    /// What this process has guards for, and when they were looked at last, ms.
    pub(crate) guarded: Option<(Guarded, u64)>,
    /// Why the guards could not be applied, as last told.
    pub(crate) guards_failed: String,
    /// The same of what its clients need.
    pub(crate) clients_failed: String,
    /// Nodes whose certificate requests cannot be signed, and why.
    pub(crate) unsigned: BTreeMap<String, String>,
    /// Since when all new members have been listening (ms), as long as the status does not say it.
    pub(crate) listening_since: Option<u64>,
    /// Nonce of the clients' count under way.
    pub(crate) count: Option<String>,
    /// The clients' counts that were logged last.
    pub(crate) clients_told: Vec<RemoteClient>,
    /// Why it is held, and since when, ms.
    pub(crate) hold_since: Option<(String, u64)>,
    /// Text of the last Event, so that one is not repeated.
    pub(crate) last_event: String,
}

/// A step that was refused in a way that passes.
pub(crate) struct Refused {
    pub(crate) step: Step,
    /// Until when it is not tried again, ms.
    pub(crate) until: u64,
    /// How often in a row.
    pub(crate) times: u32,
}

impl Memory {
    pub(crate) fn new(dial: Arc<dyn Dial>, turn: u64) -> Self {
        Self {
            last_ms: 0,
            turn,
            dial,
            ca: None,
            clients: HashMap::new(),
            nodes: None,
            lags: HashMap::new(),
            healthy_since: HashMap::new(),
            absences: Absences::default(),
            drains_in_vain: HashMap::new(),
            losses: HashMap::new(),
            moved: HashMap::new(),
            progress: HashMap::new(),
            gate: None,
            stores: None,
            removed_ms: None,
            disarmed_ms: None,
            untold: Vec::new(),
            preflight: None,
            preparing_since: None,
            preflight_failed: None,
            refused: None,
            life_since: None,
            etcd_silent: None,
            signalled_since: None,
            published: Vec::new(),
            served: None,
            uid: None,
            since_ms: crate::clock::now_ms(),
            not_taken_over: None,
            guard_image: None,
            guarded: None,
            guards_failed: String::new(),
            clients_failed: String::new(),
            unsigned: BTreeMap::new(),
            listening_since: None,
            count: None,
            clients_told: Vec::new(),
            hold_since: None,
            last_event: String::new(),
        }
    }

    /// It was about another cluster.
    pub(crate) fn forget(&mut self) {
        *self = Self::new(self.dial.clone(), self.turn);
    }

    /// The pivot was aborted: the next one begins anew.
    pub(crate) fn forget_pivot(&mut self) {
        (self.preflight, self.preflight_failed, self.listening_since, self.count, self.gate) = (None, None, None, None, None);
    }
}
