//! From frontend to backend: the rules of a Service, for packets and sockets alike.

use bytemuck::Zeroable;

use super::{Client, Env, Family, Origin, Tuple};
use crate::addr::Address;
use crate::maglev;
use crate::maps::{
    Affinity, AffinityKey, Backend, DropReason, Frontend, FrontendKey, Masquerade, RangeKey, SERVICE_NETS, ServiceNet,
};

/// How often a look-up is repeated that met the maps in the middle of a change.
const LOOKUPS: u64 = 2;

/// The backend that was chosen for a client.
///
/// What is zero at first begins at a multiple of 8: the compiler writes 8 bytes at once, and BPF's stack takes that only
/// aligned.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice<A: Address> {
    /// Address of the backend.
    pub addr: A,
    /// Its port, network order.
    pub port: [u8; 2],
    /// Whether it is to see an address of this node instead of the client's.
    pub is_masqueraded: bool,
    /// Always 0.
    pub zero: u8,
    /// Always 0.
    pub fill: A::Fill,
    /// Id of the backend.
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
    /// Id of the Service port.
    pub service: u32,
    /// Always 0.
    pub end: u32,
}

// SAFETY: zero is a value of each of its fields, which are integers, bytes, addresses and a `bool`.
unsafe impl<A: Address> Zeroable for Choice<A> {}

/// Why no backend was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such frontend, and the address is none of a Service: the packet is not ours.
    NoFrontend,
    /// Nobody serves the Service port anywhere: the client is to be told so. It has been counted.
    NobodyServes,
    /// The address is a ClusterIP, but this port is none of its Service: the client is to be told so.
    UnknownPort,
    /// The client is to hear nothing.
    Drop(DropReason),
}

/// [`Tables::select`](super::Tables::select).
///
/// The agent may switch a frontend to another range of slots between two look-ups here. A backend that is
/// gone or serves another Service port tells so, and the look-ups are made again.
#[inline(always)]
pub fn select<A: Family, E: Env<A>>(
    env: &mut E,
    client: &A,
    port: [u8; 2],
    key: &FrontendKey<A>,
    choice: &mut Choice<A>,
) -> Result<(), Refusal> {
    for _ in 0..LOOKUPS {
        let Some(frontend) = env.frontend(key) else {
            return Err(no_frontend(env, &key.addr));
        };
        if key.addr.is_loopback() && env.origin() != Origin::Node {
            // For the sockets of the node itself only: from elsewhere such an address is forged.
            return Err(Refusal::NoFrontend);
        }
        if frontend.flags & Frontend::RANGES != 0 && !is_in_range(env, frontend.service, *client) {
            return Err(Refusal::Drop(DropReason::SourceRange));
        }
        let who = identify(env, client, &frontend);
        let is_inside = who != Client::Outside;
        let (first, count) =
            if is_inside { (frontend.first, frontend.count) } else { (frontend.outside_first, frontend.outside_count) };
        if count == 0 && frontend.flags & Frontend::DROP != 0 {
            return Err(Refusal::Drop(DropReason::NoLocalBackend));
        }
        if count == 0 {
            env.count_refusal(frontend.service);
            return Err(Refusal::NobodyServes);
        }
        let mut id = 0;
        if frontend.affinity != 0 {
            id = remembered(env, client, &frontend, is_inside);
        }
        if id == 0 {
            let is_table = !is_inside && frontend.flags & Frontend::TABLE != 0;
            let number = if is_table { maglev::hash(*client, port, key.port, key.proto) } else { env.random() };
            // The high bits of the product: a number below `count` without a division.
            let index = ((u64::from(number) * u64::from(count)) >> 32) as u32;
            let Some(drawn) = env.slot(first.wrapping_add(index)) else {
                continue;
            };
            id = drawn;
        }
        let Some(backend) = env.backend(id) else {
            continue;
        };
        if backend.is_live() && backend.service == frontend.service {
            choice.addr = backend.addr;
            choice.port = backend.port;
            choice.is_masqueraded = needs_masquerade(frontend.masquerade, who, client, &backend);
            choice.backend = id;
            choice.generation = backend.generation;
            choice.service = frontend.service;
            if frontend.affinity != 0 {
                remember(env, client, choice);
            }
            return Ok(());
        }
    }
    Err(Refusal::Drop(DropReason::BackendMissing))
}

/// The backend that a client was sent to before, if it may be sent there again: see [`Affinity`]. 0 if not.
#[inline(always)]
fn remembered<A: Family, E: Env<A>>(env: &mut E, client: &A, frontend: &Frontend, is_inside: bool) -> u32 {
    let now = env.now();
    let key = AffinityKey::new(*client, frontend.service);
    let Some(affinity) = env.affinity(&key) else {
        return 0;
    };
    let (id, generation, seen) = (affinity.backend, affinity.generation, affinity.seen);
    if now.saturating_sub(seen) > frontend.affinity {
        return 0;
    }
    let local = if is_inside { Frontend::LOCAL } else { Frontend::OUTSIDE_LOCAL };
    let list = if frontend.flags & local != 0 { Backend::<A>::POLICY_LOCAL } else { Backend::<A>::CLUSTER };
    let Some(backend) = env.backend(id) else {
        return 0;
    };
    let is_usable = backend.is_live()
        && backend.service == frontend.service
        && backend.generation == generation
        && backend.flags & list != 0;
    if is_usable { id } else { 0 }
}

/// Remembers the backend of a client's new flow. Other CPUs may do so at once: whatever mixture they leave is looked at
/// as closely as everything else before it counts.
#[inline(always)]
fn remember<A: Family, E: Env<A>>(env: &mut E, client: &A, choice: &Choice<A>) {
    let seen = env.now();
    let key = AffinityKey::new(*client, choice.service);
    let affinity = Affinity { backend: choice.backend, generation: choice.generation, seen };
    match env.affinity(&key) {
        Some(known) => *known = affinity,
        None => env.store_affinity(&key, &affinity),
    }
}

/// Whether a packet is surely for no Service, as most that belong to no flow: that is found here without a call. Where it is
/// not sure, [`select`] tells.
#[inline(always)]
pub(super) fn is_stranger<A: Family, E: Env<A>>(env: &E, tuple: &Tuple<A>) -> bool {
    let key = FrontendKey::new(tuple.dst, tuple.dst_port, tuple.proto);
    if env.frontend(&key).is_some() {
        return false;
    }
    let (Some(first), Some(second)) = (env.service_net(0), env.service_net(1)) else {
        return true;
    };
    let is_outside = first.flags & ServiceNet::<A>::USED == 0 || !tuple.dst.is_within(&first.addr, &first.mask);
    is_outside && second.flags & ServiceNet::<A>::USED == 0
}

/// What becomes of a packet for an address at which nothing is balanced, as in kube-proxy's nftables mode (`cluster-ips-check`
/// in `pkg/proxy/nftables/proxier.go`).
#[inline(always)]
fn no_frontend<A: Family, E: Env<A>>(env: &E, address: &A) -> Refusal {
    for index in 0..SERVICE_NETS {
        let Some(net) = env.service_net(index) else {
            return Refusal::NoFrontend;
        };
        let flags = net.flags;
        if flags & ServiceNet::<A>::USED == 0 {
            return Refusal::NoFrontend;
        }
        if !address.is_within(&net.addr, &net.mask) {
            continue;
        }
        if is_in_range(env, RangeKey::<A>::CLUSTER_IPS, *address) {
            return Refusal::UnknownPort;
        }
        let is_known =
            flags & ServiceNet::<A>::COMPLETE == 0 || is_in_range(env, RangeKey::<A>::LEFT_TO_OTHERS, *address);
        return if is_known { Refusal::NoFrontend } else { Refusal::Drop(DropReason::UnknownAddress) };
    }
    Refusal::NoFrontend
}

/// Says who a client is, as far as it matters to the frontend.
///
/// What the hook knows comes first, then the ranges of pods, then the node's own addresses: the order of kube-proxy's
/// rules for externalTrafficPolicy Local (`pkg/proxy/nftables/proxier.go`).
#[inline(always)]
fn identify<A: Family, E: Env<A>>(env: &E, client: &A, frontend: &Frontend) -> Client {
    match env.origin() {
        Origin::Pods => return Client::Pod,
        Origin::Node => return Client::Node,
        Origin::ByAddress if is_in_range(env, RangeKey::<A>::PODS, *client) => return Client::Pod,
        Origin::ByAddress | Origin::Elsewhere => {}
    }
    if treats_node_apart(frontend) && is_in_range(env, RangeKey::<A>::NODE, *client) {
        return Client::Node;
    }
    Client::Outside
}

/// Whether the frontend's rules for the node itself are others than for clients from elsewhere.
#[inline(always)]
fn treats_node_apart(frontend: &Frontend) -> bool {
    const BOTH: u8 = Masquerade::NODE | Masquerade::OUTSIDE;
    let masquerade = frontend.masquerade;
    let is_same = masquerade & BOTH == 0 || (masquerade & BOTH == BOTH && masquerade & Masquerade::KEEP_OUTSIDE == 0);
    !is_same || frontend.first != frontend.outside_first || frontend.count != frontend.outside_count
}

/// Whether the backend is to see the node's address instead of the client's: see [`Masquerade`].
///
/// A client that reaches itself is always masqueraded: it would answer itself directly (kube-proxy's hairpin rule).
#[inline(always)]
fn needs_masquerade<A: Family>(rule: u8, who: Client, client: &A, backend: &Backend<A>) -> bool {
    if backend.addr == *client {
        return true;
    }
    let keeps = who == Client::Outside && rule & Masquerade::KEEP_OUTSIDE != 0 && backend.is_local();
    rule & who as u8 != 0 && !keeps
}

/// What the compiler may read and write two numbers of at once: BPF's stack takes that only aligned.
#[repr(C, align(8))]
pub(super) struct Aligned<T>(pub T);

/// Whether an address is in one of the owner's ranges.
#[inline(always)]
pub(super) fn is_in_range<A: Family, E: Env<A>>(env: &E, owner: u32, addr: A) -> bool {
    let key = Aligned(RangeKey::exact(owner, addr));
    env.is_in_range(&key.0)
}
