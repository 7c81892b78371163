//! Ranges of addresses, and what they are for.

use super::plain;
use crate::addr::{Address, Ipv4, Ipv6};

/// Key of the `range_v4` and `range_v6` longest-prefix tries: a range of addresses and who asks about it.
///
/// One trie has the ranges of all owners, since the owner's 32 bits come first and are always compared in full: an
/// address is looked up with [`RangeKey::exact`]. A trie compares bytes in the order of memory, which is as good
/// as any for the owner, and right for the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RangeKey<A: Address> {
    /// How many bits count: 32 for the owner, and the range's prefix length.
    pub prefix: u32,
    /// Id of the Service port whose clients are limited to the range; or [`RangeKey::PODS`], or [`RangeKey::NODE`].
    pub owner: u32,
    /// First address of the range.
    pub addr: A,
}
plain!(RangeKey<Ipv4> = 12, RangeKey<Ipv6> = 24);

impl<A: Address> RangeKey<A> {
    /// The owner of the ranges that pods have their addresses from, by which local clients are told where no
    /// device tells (kube-proxy's detectLocalMode ClusterCIDR and NodeCIDR). Id 0 is no Service port.
    pub const PODS: u32 = 0;
    /// The owner of the node's own addresses: a client that has one is the node itself. No Service port has such an id.
    pub const NODE: u32 = u32::MAX;
    /// The owner of the addresses that ClusterIPs have: at any other port than those of their Services clients are refused.
    pub const CLUSTER_IPS: u32 = u32::MAX - 1;
    /// The owner of the ClusterIPs of Services that are left to others: their packets are not ours.
    pub const LEFT_TO_OTHERS: u32 = u32::MAX - 2;
    /// The owner of the addresses of load balancers, and of external IPs: fragments that come there before the first of their
    /// packet wait for it.
    pub const EXTERNAL_IPS: u32 = u32::MAX - 3;
    /// Owners from here on are no Service ports.
    const RESERVED: u32 = u32::MAX - 15;
    /// How many bits the owner has.
    pub const OWNER_BITS: u32 = 32;

    /// Whether an owner is the id of a Service port.
    pub const fn is_service(owner: u32) -> bool {
        owner != Self::PODS && owner < Self::RESERVED
    }

    /// The key that asks whether an address is in a range of this owner.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "an address has 4 or 16 bytes")]
    pub const fn exact(owner: u32, addr: A) -> Self {
        Self { prefix: Self::OWNER_BITS + (A::LEN as u32) * 8, owner, addr }
    }
}

/// Value of the `range_v4` and `range_v6` tries: always 1, as being in the trie is all there is to know.
pub type RangeMark = u32;
