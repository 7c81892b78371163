//! Sockets of a node's own processes: where they are led when they are connected.

use std::net::SocketAddr;

use proxy_agent::plan::PlanFamily;
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::datapath::socket::{Destination, NoRoom, Outcome, Socket, connect};
use proxy_common::datapath::{Env, Family};
use proxy_common::maps::{DatagramKey, Peer};
use proxy_testkit::packets::HostEnv;

/// What the hook at `connect` does.
pub(super) enum Led {
    /// The socket is connected to this address: the one that was asked, or a backend.
    To(SocketAddr),
    /// The call fails with "connection refused".
    Refused,
    /// The call fails, where packets would have been dropped.
    Dropped,
}

/// Connects a socket that is bound to no address.
pub(super) fn lead(env: &mut HostEnv, to: SocketAddr, protocol: u8) -> Led {
    match to {
        SocketAddr::V4(v4) => of_family(env, Ipv4::new(v4.ip().octets()), to, protocol),
        SocketAddr::V6(v6) => of_family(env, Ipv6::new(v6.ip().octets()), to, protocol),
    }
}

fn of_family<A: Family + PlanFamily>(env: &mut HostEnv, addr: A, to: SocketAddr, proto: u8) -> Led
where
    HostEnv: Env<A>,
{
    let mut destination = Destination { addr, port: to.port().to_be_bytes(), proto };
    match connect(env, &mut Unbound, &mut destination) {
        Outcome::Pass => Led::To(to),
        Outcome::Translated => Led::To(SocketAddr::new(destination.addr.to_ip(), u16::from_be_bytes(destination.port))),
        Outcome::Refused(_) => Led::Refused,
        Outcome::Dropped(_) => Led::Dropped,
    }
}

/// A socket that is connected once, and remembers nothing.
struct Unbound;

impl<A: Family> Socket<A> for Unbound {
    fn cookie(&self) -> u64 {
        1
    }

    fn source(&self) -> A {
        A::default()
    }

    fn peer(&self) -> Option<Peer<A>> {
        None
    }

    fn set_peer(&mut self, _: &Peer<A>) -> Result<(), NoRoom> {
        Ok(())
    }

    fn clear_peer(&mut self) {}

    fn datagram(&mut self, _: &DatagramKey<A>) -> Option<&mut Peer<A>> {
        None
    }

    fn store_datagram(&mut self, _: &DatagramKey<A>, _: &Peer<A>) -> Result<(), NoRoom> {
        Err(NoRoom)
    }
}
