//! Frontends: the addresses and ports that are balanced.

use super::plain;
use crate::addr::{Address, Ipv4, Ipv6};

/// Key of the `frontend_v4` and `frontend_v6` maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey<A: Address> {
    /// The virtual address, or a node address for a NodePort.
    pub addr: A,
    /// Port, network order.
    pub port: [u8; 2],
    /// IP protocol number.
    pub proto: u8,
    /// Always 0.
    pub zero: u8,
    /// Always 0.
    pub fill: A::Fill,
}
plain!(FrontendKey<Ipv4> = 8, FrontendKey<Ipv6> = 24);

impl<A: Address> FrontendKey<A> {
    /// A key from its parts; `port` in network order.
    #[inline(always)]
    pub fn new(addr: A, port: [u8; 2], proto: u8) -> Self {
        Self { addr, port, proto, zero: 0, fill: A::Fill::default() }
    }
}

/// Value of the `frontend_v4` and `frontend_v6` maps: which slots a new flow may choose from, and by which rules.
///
/// There are two lists, each a range of slots, since externalTrafficPolicy Local is for clients from elsewhere
/// only: clients on this node get all endpoints (kube-proxy's short circuit, `pkg/proxy/nftables/proxier.go`).
/// Where no rule tells clients apart both are the same. The lists of a Service port lie in one stretch of slots,
/// so that they may overlap: endpoints of the Local policy alone, of both, of the Cluster policy alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// Id of the Service port, the index of its name and of its counters.
    pub service: u32,
    /// For clients on this node, that is its pods and itself: index of the first slot.
    pub first: u32,
    /// Number of slots from `first` on; 0 means that the flow is dropped or refused, see [`Frontend::DROP`].
    pub count: u32,
    /// For all other clients: index of the first slot.
    pub outside_first: u32,
    /// Number of slots from `outside_first` on; 0 as above. Of a table ([`Frontend::TABLE`]), each backend has several.
    pub outside_count: u32,
    /// A client stays with its backend until it has begun no flow for so many seconds; 0 for no affinity.
    pub affinity: u32,
    /// A [`FrontendKind`].
    pub kind: u8,
    /// [`Frontend::DROP`] and those that follow it.
    pub flags: u8,
    /// Bits of [`Masquerade`].
    pub masquerade: u8,
    /// Always 0.
    pub zero: u8,
}
plain!(Frontend = 28);

impl Frontend {
    /// Somebody serves, if perhaps not here: a client whose list is empty is dropped, and not refused. Without it
    /// nobody serves anywhere, both lists are empty, and clients are told so.
    pub const DROP: u8 = 1;
    /// Only clients in a range of the Service port may come (`range_v4`, `range_v6`), whoever they are; the
    /// others are dropped.
    pub const RANGES: u8 = 2;
    /// The list for clients on this node is that of the Local policy: see [`Backend::POLICY_LOCAL`].
    ///
    /// [`Backend::POLICY_LOCAL`]: super::Backend::POLICY_LOCAL
    pub const LOCAL: u8 = 4;
    /// The list for other clients is that of the Local policy.
    pub const OUTSIDE_LOCAL: u8 = 8;
    /// The slots for other clients are a table of [`maglev`](crate::maglev): the client's address and port choose, so that
    /// every node sends a flow to the same backend. Without it, chance does.
    pub const TABLE: u8 = 16;
}

/// Which flows of a frontend get a source address of this node, as bits of [`Frontend::masquerade`].
///
/// A client that would reach itself is masqueraded whatever they say (kube-proxy's hairpin rule).
#[derive(Clone, Copy, Debug)]
pub struct Masquerade;

impl Masquerade {
    /// Those of this node's pods.
    pub const PODS: u8 = 1;
    /// Those of the node itself.
    pub const NODE: u8 = 2;
    /// Those of all other clients.
    pub const OUTSIDE: u8 = 4;
    /// Those of other clients not after all, where the backend is on this node and so answers through it.
    pub const KEEP_OUTSIDE: u8 = 8;
    /// Those of everybody.
    pub const ALL: u8 = Self::PODS | Self::NODE | Self::OUTSIDE;
}

/// What made a frontend.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp = 1,
    /// `spec.ports[].nodePort` on an address of this node.
    NodePort = 2,
    /// `spec.externalIPs`.
    ExternalIp = 3,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer = 4,
}

impl FrontendKind {
    /// The kind that a map's byte stands for.
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::ClusterIp),
            2 => Some(Self::NodePort),
            3 => Some(Self::ExternalIp),
            4 => Some(Self::LoadBalancer),
            _ => None,
        }
    }

    /// The name that the API and our output use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::ExternalIp => "ExternalIP",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}
