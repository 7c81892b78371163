//! Everything outside the packet, as the core sees it.

use super::Family;
use super::select::{Choice, Refusal, select};
use crate::flows::{FlowMemory, Shared};
use crate::maps::{
    Affinity, AffinityKey, Backend, Device, DropReason, Fragment, FragmentKey, Frontend, FrontendKey, Masquerade,
    RangeKey, ServiceCounters, ServiceNet,
};

/// The maps of one address family.
pub trait Tables<A: Shared> {
    /// Where the flows lie.
    type Flows: FlowMemory<A>;

    /// The frontend with this address, port and protocol.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend>;

    /// The id of the backend in a slot.
    fn slot(&self, index: u32) -> Option<u32>;

    /// The backend with this id, in use or not.
    fn backend(&self, id: u32) -> Option<Backend<A>>;

    /// Whether an address is in one of the owner's ranges.
    fn is_in_range(&self, key: &RangeKey<A>) -> bool;

    /// An entry of the ranges that Services' addresses are from; none behind the last.
    fn service_net(&self, index: u32) -> Option<&ServiceNet<A>>;

    /// What is remembered of a client of a Service port that has session affinity.
    fn affinity(&mut self, key: &AffinityKey<A>) -> Option<&mut Affinity>;

    /// Remembers a client's backend. Where there is no room, the client has no affinity.
    fn store_affinity(&mut self, key: &AffinityKey<A>, affinity: &Affinity);

    /// Whether a new flow's packets come in and leave by uplinks that send them on past the stack, in both directions. The hook's
    /// [`Router`](super::Router) knows then which device its requests leave by.
    #[inline(always)]
    fn is_sent_on(&mut self, _client: &A, _backend: &A) -> bool {
        false
    }

    /// The table of flows.
    fn flows(&self) -> Self::Flows;

    /// Chooses a backend for a client's new flow to a frontend. `choice` is valid if this is `Ok`. `port` is the client's, in
    /// network order; it matters for clients from elsewhere only.
    ///
    /// May be made a function of its own, as those of [`FlowMemory`].
    ///
    /// # Errors
    /// [`Refusal`] says what to tell the client.
    #[inline(always)]
    fn select(&mut self, client: &A, port: [u8; 2], key: &FrontendKey<A>, choice: &mut Choice<A>) -> Result<(), Refusal>
    where
        A: Family,
        Self: Host + Sized,
    {
        select(self, client, port, key, choice)
    }

    /// What became of the first fragment of a packet.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<&Fragment<A>>;

    /// Notes it for the others. Where there is no room, one that was noted earlier makes way.
    fn store_fragment(&mut self, key: &FragmentKey<A>, fragment: &Fragment<A>);
}

/// Who a client is. The numbers are the bits of [`Masquerade`] that are about it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A pod of this node.
    Pod = Masquerade::PODS,
    /// The node itself.
    Node = Masquerade::NODE,
    /// Anybody else.
    Outside = Masquerade::OUTSIDE,
}

/// What a hook knows of its clients without a look at their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They are pods of this node.
    Pods,
    /// They are sockets of the node itself.
    Node,
    /// Those in a range of [`RangeKey::PODS`] are pods of this node.
    ByAddress,
    /// They are not pods of this node.
    Elsewhere,
}

/// What a hook offers beside the maps: clock, randomness, its device, counters.
pub trait Host {
    /// Whole seconds since boot (CLOCK_MONOTONIC, coarse).
    fn now(&mut self) -> u32;

    /// A random number.
    fn random(&mut self) -> u32;

    /// The device that the packet is on, if the agent knows it.
    fn device(&self) -> Option<Device>;

    /// The packet is to leave by this device, past the stack: [`device`](Self::device) is that one from then on.
    #[inline(always)]
    fn leave_by(&mut self, _device: u32) {}

    /// Whether new flows are to wait at `now`: see [`FlowHold`](crate::maps::FlowHold).
    fn is_held(&self, now: u32) -> bool;

    /// Who the clients are that come in here.
    fn origin(&self) -> Origin;

    /// Whether one more answer of our own may be given at `now`: see [`AnswerBudget`](crate::maps::AnswerBudget).
    fn may_answer(&mut self, now: u32) -> bool;

    /// Counts a client that nobody serves.
    #[inline(always)]
    fn count_refusal(&mut self, service: u32) {
        self.count(service, |counters| counters.refused += 1);
    }

    /// Counts a packet that is dropped, where no verdict tells the hook to do so.
    #[inline(always)]
    fn count_drop(&mut self, _reason: DropReason) {}

    /// Counts on a Service port.
    fn count(&mut self, service: u32, add: impl FnOnce(&mut ServiceCounters));
}

/// All that the core needs for one address family.
pub trait Env<A: Shared>: Host + Tables<A> {}

impl<A: Shared, E: Host + Tables<A>> Env<A> for E {}
