//! Scenario files: what is in them.

mod endpoints;
mod line;
mod objects;
mod parse;

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use proxy_testkit::lab::Family;
use serde_json::Value;

pub use endpoints::EndpointLines;
pub use objects::{Key, Objects};
pub use parse::read;

/// A place in a file. Displayed as `conformance/affinity.scenario:12`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A file.
#[derive(Debug)]
pub struct File {
    /// Its scenarios, in their order.
    pub scenarios: Vec<Scenario>,
}

/// Objects, and what must come of asking them.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where it begins.
    pub place: Place,
    /// What the file is about: a row of the table at the end.
    pub feature: String,
    /// A sentence.
    pub name: String,
    /// The agent's flags.
    pub options: Vec<String>,
    /// Why it does not pass yet.
    pub pending: Option<String>,
    /// Why it runs on the packet core alone.
    pub host_only: Option<String>,
    /// What is done, in this order.
    pub steps: Vec<Step>,
}

/// One thing that is done.
#[derive(Clone, Debug)]
pub struct Step {
    /// Where it is said.
    pub place: Place,
    /// What.
    pub action: Action,
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Objects are created, or replaced.
    Objects(Vec<Value>),
    /// The EndpointSlices of a Service are replaced.
    Endpoints(EndpointLines),
    /// An object is changed by a merge patch (RFC 7386).
    Patch(Key, Value),
    /// An object is deleted.
    Delete(Key),
    /// Seconds pass.
    Wait(u32),
    /// Somebody asks.
    Expect(Box<Line>),
}

/// Who asks which address, and what must come of it.
#[derive(Clone, Debug)]
pub struct Line {
    /// As it is written.
    pub text: String,
    /// The one family that it is about; both where `None`, as far as the address has them.
    pub family: Option<Family>,
    /// The name of the host that asks.
    pub from: String,
    /// The node that a client outside sends what is not for a node itself to: 1 or 2.
    pub via: Option<u8>,
    /// The address.
    pub to: Target,
    /// The port.
    pub port: u16,
    /// The protocols; each is asked by itself.
    pub protocols: Vec<Protocol>,
    /// What must come of it.
    pub outcome: Outcome,
    /// Why it does not pass yet.
    pub pending: Option<String>,
    /// Why it runs on the packet core alone.
    pub host_only: Option<String>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As the API writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The protocol of a name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.name() == name)
    }
}

/// Addresses, by a name that has one of each family, or as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `web` or `space/web`: the cluster addresses of a Service.
    ClusterIp(Key),
    /// `web.external`: its external IPs.
    ExternalIp(Key),
    /// `web.lb`: those of its load balancer.
    LoadBalancer(Key),
    /// `node1`: a host's address.
    Host(String),
    /// `node1.second`: a node's second address.
    Second(String),
    /// `localhost`.
    Localhost,
    /// An address as it is.
    Address(IpAddr),
}

/// What must come of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exactly these endpoints answer, each time another perhaps.
    Served(Vec<Served>),
    /// One of these endpoints answers, each time the same one.
    OneOf(Vec<Served>),
    /// The endpoint answers that served this client of this Service port last.
    TheSame(Source),
    /// Asked again after every so many seconds, another endpoint answers than the one that served this client of this
    /// Service port last.
    Another(u32),
    /// The client is told that nobody serves.
    Refused,
    /// Nothing comes back.
    Dropped,
    /// The proxy leaves the packet as it is.
    Untouched,
}

/// Who answers, and whom it may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The endpoint's host.
    pub by: String,
    /// The source address that it sees.
    pub seen: Source,
}

/// Source addresses that an endpoint may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's own.
    Itself,
    /// One of these hosts': of a node, any that it has.
    Hosts(Vec<String>),
    /// Whatever.
    Any,
}

#[cfg(test)]
mod tests;
