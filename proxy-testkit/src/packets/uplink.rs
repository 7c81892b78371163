//! An uplink by which packets are sent on, on the host: what XDP and tc's programs do there, one after the other.

use std::net::IpAddr;

use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::datapath::{
    Env, Family, Route, Router, Swift, Verdict, Way, accelerate, accelerate_step, egress, ingress, onward,
};

use super::host::done;
use super::{Done, HostEnv, HostPacket, Places};

/// Bytes in the longest packet that any way can carry.
pub const WIDTH: u32 = 1_500;

/// Which hook of the uplink a packet is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// The first.
    Xdp,
    /// What it has left.
    Tc,
}

/// The node's routes: backends on other nodes and clients outside are reached by the uplink, one of these after its neighbour
/// was asked for.
pub(super) fn route<A: Address>(way: &Way<A>) -> Route {
    let is_of = |places: [IpAddr; 2]| {
        places.into_iter().any(|place| match place {
            IpAddr::V4(place) => bytemuck::bytes_of(&way.dst) == place.octets(),
            IpAddr::V6(place) => bytemuck::bytes_of(&way.dst) == place.octets(),
        })
    };
    let [v4, v6] = [Places::v4(), Places::v6()];
    if way.length > WIDTH {
        Route::Closed
    } else if is_of([v4.stranger, v6.stranger]) {
        Route::Unresolved
    } else if is_of([v4.remote, v6.remote]) || is_of([v4.outside, v6.outside]) {
        Route::Open
    } else {
        Route::Closed
    }
}

#[derive(Default)]
struct HostRouter {
    is_announced: bool,
}

impl<A: Address> Router<A> for HostRouter {
    fn route(&mut self, way: &Way<A>) -> Route {
        route(way)
    }

    fn device(&self) -> u32 {
        1
    }

    fn announce(&mut self) -> bool {
        self.is_announced = true;
        true
    }
}

/// Runs one packet.
pub(super) fn run(env: &mut HostEnv, packet: &mut HostPacket) -> Done {
    let done = if packet.bytes.first().is_some_and(|byte| byte >> 4 == 4) {
        run_family::<Ipv4>(env, packet)
    } else {
        run_family::<Ipv6>(env, packet)
    };
    env.set_uplink(None);
    done
}

fn run_family<A: Family>(env: &mut HostEnv, packet: &mut HostPacket) -> Done
where
    HostEnv: Env<A>,
{
    let before = packet.bytes.clone();
    env.set_uplink(Some(Hook::Xdp));
    let mut router = HostRouter::default();
    match accelerate(|step| accelerate_step::<A, _, _, _>(step, packet, env, &mut router)) {
        Swift::Up => {
            assert!(router.is_announced, "tc has not been told");
            return Done::Pass(packet.bytes.clone());
        }
        Swift::Out => return Done::SentOn(packet.bytes.clone()),
        Swift::Drop | Swift::Begin | Swift::Masquerade | Swift::Ready => return Done::Drop,
        Swift::Left | Swift::NotOurs => assert_eq!(before, packet.bytes, "it is left alone, and was altered"),
    }
    env.set_uplink(Some(Hook::Tc));
    let verdict = match ingress::<A, _, _>(packet, env) {
        Verdict::Opened | Verdict::Translated => onward::<A, _, _, _>(packet, env, &mut HostRouter::default()),
        other => return done(other, packet.clone()),
    };
    if verdict != Verdict::Translated {
        return done(verdict, packet.clone());
    }
    env.set_uplink(None);
    match egress::<A, _, _>(packet, env) {
        Verdict::Translated => Done::SentOn(packet.bytes.clone()),
        other => done(other, packet.clone()),
    }
}
