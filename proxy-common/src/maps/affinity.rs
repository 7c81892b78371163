//! Session affinity: which backend a client was sent to before.

use super::plain;
use crate::addr::{Address, Ipv4, Ipv6};

/// Key of the affinity maps: a client of a Service port. kube-proxy keeps affinity by port of a Service, not by Service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey<A: Address> {
    /// Address of the client, before any masquerade.
    pub client: A,
    /// Id of the Service port.
    pub service: u32,
    /// Always 0.
    pub fill: A::Fill,
}
plain!(AffinityKey<Ipv4> = 8, AffinityKey<Ipv6> = 24);

impl<A: Address> AffinityKey<A> {
    /// A key from its parts.
    #[inline(always)]
    pub fn new(client: A, service: u32) -> Self {
        Self { client, service, fill: A::Fill::default() }
    }
}

/// Value of the affinity maps.
///
/// It holds for a new flow while all of this is so: it is younger than [`affinity`](super::Frontend::affinity)
/// seconds, the backend is live and serves the same Service port, its generation is this one, and it is in the
/// list that the client would choose from ([`Backend::CLUSTER`](super::Backend::CLUSTER) or
/// [`Backend::POLICY_LOCAL`](super::Backend::POLICY_LOCAL)).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// Id of the backend.
    pub backend: u32,
    /// Its generation when it was chosen.
    pub generation: u32,
    /// When the client last began a flow: whole seconds since boot (CLOCK_MONOTONIC).
    pub seen: u32,
}
plain!(Affinity = 12);
