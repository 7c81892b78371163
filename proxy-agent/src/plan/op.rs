//! One change to one map entry.

use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::maps::{Backend, Frontend, FrontendKey, RangeKey, ServiceName, ServiceNet};

/// One change to one map entry, or to a range of slots. Applying it twice changes nothing.
///
/// A plan lists its operations so that every prefix of them leaves the maps consistent: names, backends, slots and
/// ranges are written before the frontend that leads to them, and freed after the last one that did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Name a Service port id, or free it with an all-zero name.
    SetService {
        /// Id of the Service port.
        id: u32,
        /// Its name.
        name: Box<ServiceName>,
    },
    /// Zero the counters of a Service port id that begins a new life.
    ResetCounters {
        /// Id of the Service port.
        id: u32,
    },
    /// A change to the IPv4 maps.
    V4(FamilyOp<Ipv4>),
    /// A change to the IPv6 maps.
    V6(FamilyOp<Ipv6>),
}

impl Op {
    /// Whether it frees a backend, so that what still talks to it is to look for another one.
    pub fn frees_backend(&self) -> bool {
        match self {
            Self::V4(FamilyOp::SetBackend { backend, .. }) => !backend.is_live(),
            Self::V6(FamilyOp::SetBackend { backend, .. }) => !backend.is_live(),
            _ => false,
        }
    }
}

/// One change to one map of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FamilyOp<A: Address> {
    /// Write a backend, or free its id (not live, the generation counted up).
    SetBackend {
        /// Id of the backend.
        id: u32,
        /// The entry.
        backend: Backend<A>,
    },
    /// Point a range of slots at backends.
    SetSlots {
        /// Index of the first slot.
        first: u32,
        /// Ids of the backends.
        backends: Box<[u32]>,
    },
    /// Add a frontend or switch it to another range of slots.
    SetFrontend {
        /// The address, port and protocol.
        key: FrontendKey<A>,
        /// Where it leads.
        frontend: Frontend,
    },
    /// Remove a frontend.
    DeleteFrontend {
        /// The address, port and protocol.
        key: FrontendKey<A>,
    },
    /// Write an entry of the ranges that ClusterIPs are from.
    SetServiceNet {
        /// Which entry.
        index: u32,
        /// The entry.
        net: ServiceNet<A>,
    },
    /// Add a range of addresses.
    SetRange {
        /// The owner and the range.
        key: RangeKey<A>,
    },
    /// Remove a range of addresses.
    DeleteRange {
        /// The owner and the range.
        key: RangeKey<A>,
    },
}
