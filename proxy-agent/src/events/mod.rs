//! Events for the API server (`events.k8s.io/v1`): what a cluster's users should see of this node's proxy on their
//! Service or on the Node, where kube-proxy says it.
//!
//! Recording never waits: what is too much is dropped and counted. Each Event is a line in the log, too, so that
//! without a cluster nothing is lost.

mod limit;
mod send;

use tokio::sync::mpsc;

use crate::object::ObjectName;

pub use send::Sender;

/// How many Events may wait to be sent.
const QUEUE: usize = 64;

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// A Service.
    Service(ObjectName),
    /// A Node.
    Node(String),
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// `Normal`.
    Normal,
    /// `Warning`.
    Warning,
}

/// An Event to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// What it is about (`regarding`).
    pub about: About,
    /// `type`.
    pub severity: Severity,
    /// `reason`: why, in one CamelCase word.
    pub reason: &'static str,
    /// `action`: what was being done, likewise.
    pub action: &'static str,
    /// `note`: for people.
    pub note: String,
}

impl Notice {
    /// Something is wrong.
    pub fn warning(about: About, reason: &'static str, action: &'static str, note: String) -> Self {
        Self { about, severity: Severity::Warning, reason, action, note }
    }

    /// All is well.
    pub fn normal(about: About, reason: &'static str, action: &'static str, note: String) -> Self {
        Self { about, severity: Severity::Normal, reason, action, note }
    }
}

/// Takes Events. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Recorder {
    node_name: String,
    queue: mpsc::Sender<Notice>,
}

/// A recorder, and what it records.
pub fn channel(node_name: &str) -> (Recorder, mpsc::Receiver<Notice>) {
    let (queue, notices) = mpsc::channel(QUEUE);
    (Recorder { node_name: node_name.to_owned(), queue }, notices)
}

impl Recorder {
    /// Name of this node.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Something about this node.
    pub fn about_node(&self) -> About {
        About::Node(self.node_name.clone())
    }

    /// Queues an Event.
    pub fn record(&self, notice: Notice) {
        // With the queue full there is enough to read already; without a receiver the agent is ending.
        let _dropped = self.queue.try_send(notice);
    }
}
