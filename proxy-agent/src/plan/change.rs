//! What a plan changes, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use proxy_common::maps::FrontendKind;

use crate::model::ServicePort;

/// A Service port that is added, changed or removed. Displayed as
/// `default/web:http 10.96.0.10:80/TCP ClusterIP, NodePort 30080: 3 backends (+1 -1)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The Service port.
    pub port: ServicePort,
    /// What happens to it.
    pub kind: ChangeKind,
    /// Its frontends, after the change; before it, for one that is removed.
    pub frontends: BTreeMap<(IpAddr, u16), FrontendKind>,
    /// How many backends it has after the change.
    pub backends: usize,
    /// How many of them are new.
    pub joined: usize,
    /// How many have gone.
    pub left: usize,
}

/// What happens to a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Frontends or backends are other ones.
    Changed,
    /// It is gone.
    Removed,
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.port)?;
        let mut seen = BTreeSet::new();
        // ClusterIP comes first, and a NodePort once, not once for each address of the node.
        let mut frontends: Vec<_> = self.frontends.iter().map(|(to, kind)| (*kind, *to)).collect();
        frontends.sort_unstable();
        let mut separator = " ";
        for (kind, (address, port)) in frontends {
            if kind == FrontendKind::NodePort {
                if seen.insert(port) {
                    write!(f, "{separator}NodePort {port}")?;
                } else {
                    continue;
                }
            } else {
                let at = SocketAddr::new(address, port);
                write!(f, "{separator}{at}/{} {}", self.port.protocol, kind.name())?;
            }
            separator = ", ";
        }
        if self.kind == ChangeKind::Removed {
            return Ok(());
        }
        match self.backends {
            1 => f.write_str(": 1 backend")?,
            count => write!(f, ": {count} backends")?,
        }
        match (self.kind, self.joined, self.left) {
            (ChangeKind::Added, ..) | (_, 0, 0) => Ok(()),
            (_, joined, 0) => write!(f, " (+{joined})"),
            (_, 0, left) => write!(f, " (-{left})"),
            (_, joined, left) => write!(f, " (+{joined} -{left})"),
        }
    }
}

/// A Service port that there is no room for: it stays as it was, and the rest goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    /// The Service port.
    pub port: ServicePort,
    /// Name of the map that is full.
    pub map: &'static str,
    /// How many entries it has.
    pub capacity: u32,
    /// Whether the Service port is in the maps, in its former state, or not at all.
    pub known: bool,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, map, capacity, known } = self;
        let state = if *known { "keeps its former frontends and backends" } else { "cannot be reached" };
        write!(
            f,
            "Service {port} ({}): the map {map} is full ({capacity} entries): the Service {state}; \
             remove Services or endpoints, or start the agent with a larger map",
            port.family
        )
    }
}

/// A Service port whose clients from outside have no table to choose from, as there is no room for it: a backend is chosen for
/// each flow by chance, and another one if it comes by another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithoutTable {
    /// The Service port.
    pub port: ServicePort,
    /// Name of the map that has no room for it.
    pub map: &'static str,
    /// How many entries that has.
    pub capacity: u32,
}

impl fmt::Display for WithoutTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, map, capacity } = self;
        write!(
            f,
            "Service {port} ({}): the map {map} ({capacity} entries) has no room for a table of its backends: each node chooses \
             for itself, by chance, who serves clients from outside; start the agent with a larger --max-slots",
            port.family
        )
    }
}
