//! A connection that its client opens anew from the same port, soon after it was closed.
//!
//! The backend keeps a closed connection's addresses and ports in TIME_WAIT for a minute. The client's own next connection it
//! takes all the same, as that counts on from where the last one was (RFC 6191). Another client's it takes for an old packet every
//! other time: its timestamps count from another beginning. So a masquerade port must not come free when its client opens anew:
//! the new connection has it, in the same entry.

use super::HELD;
use super::find::Found;
use super::insert::NewFlow;
use super::memory::{Fields, Shared};
use crate::maps::{FlowState, FlowWay};

/// Makes a closed flow that was masqueraded the beginning of a new one. False where it is none, or is to go to another backend, or
/// another CPU is at it.
///
/// Nothing is written that a look-up compares. Marked as one that is being masqueraded, it keeps its aliases, and nobody evicts it.
#[inline(always)]
pub(super) fn renew<A: Shared>(old: &Found<'_, A>, new: &NewFlow<A>) -> bool {
    let (set, way) = (old.set(), old.way());
    let (port, flags) = old.masquerade_port();
    let [_, backend_port] = old.inner_ports();
    if !FlowState::is_over(old.word.state)
        || port == [0; 2]
        || flags != new.flags
        || backend_port != new.backend_port
        || old.backend().differs(new.backend) != 0
        || !set.exchange(way, Fields::<A>::SEQUENCE, old.sequence, old.sequence | HELD)
    {
        return false;
    }
    set.store(way, Fields::<A>::SERVICE, new.service);
    set.store(way, Fields::<A>::BACKEND_ID, new.backend_id);
    set.store(way, Fields::<A>::GENERATION, new.generation);
    set.store(way, Fields::<A>::BEGAN, new.now);
    let is_renewed = set.exchange_way(way, old.word, FlowWay { seen: new.now, state: new.state, ..old.word });
    set.publish(way, Fields::<A>::SEQUENCE, old.sequence);
    is_renewed
}
