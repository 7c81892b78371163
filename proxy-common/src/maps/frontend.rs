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

/// Value of the `frontend_v4` and `frontend_v6` maps: which slots a new flow may choose from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// Id of the Service port, the index of its name and of its counters.
    pub service: u32,
    /// Index of the first slot.
    pub first: u32,
    /// Number of slots from `first` on; 0 means that nobody serves and clients are refused.
    pub count: u32,
    /// A [`FrontendKind`].
    pub kind: u8,
    /// Always 0.
    pub zero: [u8; 3],
}
plain!(Frontend = 16);

/// What made a frontend. It decides which flows are masqueraded.
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
