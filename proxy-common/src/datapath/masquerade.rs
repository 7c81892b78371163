//! Masquerade: a source address of this node for a flow that leaves it.

use super::parse::Parsed;
use super::{Env, Family, Tuple};
use crate::flows::{self, AliasError, Found, find};
use crate::maps::{DropReason, Flow, FlowSide};

/// What a flow says about the source address of its requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Masquerade {
    /// No flow, or one that keeps the client's address.
    NotAsked,
    /// It is to be replaced, and nobody has said by what: see [`allocate`].
    Yet,
    /// It has been replaced before, by what now is in the tuple.
    Known,
}

/// Asks the flow of a request about its source address.
#[inline(always)]
pub(super) fn masquerade<A: Family, E: Env<A>>(env: &mut E, parsed: &Parsed<A>, to: &mut Tuple<A>) -> Masquerade {
    let flows = env.flows();
    let Some(found) = find(&flows, &parsed.tuple.as_request(), FlowSide::Stack) else {
        return Masquerade::NotAsked;
    };
    let (port, flags) = found.masquerade_port();
    if flags & Flow::<A>::MASQUERADE == 0 {
        return Masquerade::NotAsked;
    }
    if port == [0; 2] {
        return Masquerade::Yet;
    }
    to.src = found.masquerade();
    to.src_port = port;
    if found.is_whole() { Masquerade::Known } else { Masquerade::Yet }
}

/// Finds a free port, and adds the masquerade to the flow with this number (see [`Found::number`]), whose packets have the
/// addresses and ports of `inside` in the node's stack.
#[inline(always)]
pub(super) fn allocate<A: Family, E: Env<A>>(env: &mut E, inside: &Tuple<A>, number: u64) -> Result<(), DropReason> {
    let Some(device) = env.device() else {
        return Err(DropReason::MasqueradeAddress);
    };
    let address = A::masquerade_address(&device);
    if address.is_none() {
        return Err(DropReason::MasqueradeAddress);
    }
    let flows = env.flows();
    let Some(found) = Found::numbered(&flows, number) else {
        return Err(DropReason::FlowTable);
    };
    let mut key = inside.as_request();
    key.near = address;
    let now = env.now();
    match flows::masquerade(&flows, &found, &mut key, now, env.random()) {
        Ok(()) => Ok(()),
        Err(AliasError::Taken) => {
            env.count(found.service(), |counters| counters.without_port += 1);
            Err(DropReason::MasqueradePorts)
        }
        Err(AliasError::Failed) => Err(DropReason::FlowTable),
    }
}
