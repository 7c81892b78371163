//! The translation at sockets, on the host: the same world as the packet table's, both families.
#![expect(clippy::unwrap_used, reason = "tests end at the first thing that is not as it should be")]

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::datapath::socket::{Destination, NoRoom, Outcome, Socket, connect, peer, send, sender};
use proxy_common::datapath::{Env, Family, Origin};
use proxy_common::maps::{DatagramKey, DropReason, Peer, TCP, UDP};
use proxy_testkit::packets::{HostEnv, LOCAL_NODE_PORT, Places, World};

/// A socket in memory.
struct HostSocket<A: Address> {
    source: A,
    peer: Option<Peer<A>>,
    datagrams: HashMap<DatagramKey<A>, Peer<A>>,
}

impl<A: Family> HostSocket<A> {
    fn new() -> Self {
        Self { source: A::default(), peer: None, datagrams: HashMap::new() }
    }
}

impl<A: Family> Socket<A> for HostSocket<A>
where
    DatagramKey<A>: Hash + Eq,
{
    fn cookie(&self) -> u64 {
        7
    }

    fn source(&self) -> A {
        self.source
    }

    fn peer(&self) -> Option<Peer<A>> {
        self.peer
    }

    fn set_peer(&mut self, peer: &Peer<A>) -> Result<(), NoRoom> {
        self.peer = Some(*peer);
        Ok(())
    }

    fn clear_peer(&mut self) {
        self.peer = None;
    }

    fn datagram(&mut self, key: &DatagramKey<A>) -> Option<&mut Peer<A>> {
        self.datagrams.get_mut(key)
    }

    fn store_datagram(&mut self, key: &DatagramKey<A>, peer: &Peer<A>) -> Result<(), NoRoom> {
        self.datagrams.insert(*key, *peer);
        Ok(())
    }
}

/// A family with its places.
trait Test: Family {
    fn places() -> Places;
    fn of(address: IpAddr) -> Self;
}

impl Test for Ipv4 {
    fn places() -> Places {
        Places::v4()
    }
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::new(address.octets()),
            IpAddr::V6(_) => unreachable!("an IPv4 place"),
        }
    }
}

impl Test for Ipv6 {
    fn places() -> Places {
        Places::v6()
    }
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V6(address) => Self::new(address.octets()),
            IpAddr::V4(_) => unreachable!("an IPv6 place"),
        }
    }
}

fn at<A: Test>(address: IpAddr, port: u16, proto: u8) -> Destination<A> {
    Destination { addr: A::of(address), port: port.to_be_bytes(), proto }
}

fn env(origin: Origin) -> HostEnv {
    let mut env = HostEnv::new(&World::new());
    env.set_origin(origin);
    env
}

fn connected_sockets<A: Test>()
where
    HostEnv: Env<A>,
    DatagramKey<A>: Hash + Eq,
{
    let places = A::places();
    let mut env = env(Origin::Node);
    for proto in [TCP, UDP] {
        let mut socket = HostSocket::<A>::new();
        let mut to = at(places.to_remote, 80, proto);
        assert_eq!(connect(&mut env, &mut socket, &mut to), Outcome::Translated);
        assert_eq!(to, at(places.remote, 8080, proto));
        // Who asks is told the Service's address, and nothing of others.
        assert_eq!((peer(&mut socket, &mut to), to), (Outcome::Translated, at(places.to_remote, 80, proto)));
        let mut from = at(places.remote, 8080, proto);
        assert_eq!((sender(&mut socket, &mut from), from), (Outcome::Translated, at(places.to_remote, 80, proto)));
        let mut other = at(places.remote, 8081, proto);
        assert_eq!(sender(&mut socket, &mut other), Outcome::Pass);
        // Connected anew, to the backend itself: nothing of the Service is left.
        let mut direct = at(places.remote, 8080, proto);
        assert_eq!(connect(&mut env, &mut socket, &mut direct), Outcome::Pass);
        assert_eq!(peer(&mut socket, &mut direct), Outcome::Pass);
    }
    let service = at::<A>(places.to_remote, 80, TCP);
    let mut socket = HostSocket::<A>::new();
    connect(&mut env, &mut socket, &mut { service });
    let flows = env.counters(socket.peer.unwrap().service).flows;
    connect(&mut env, &mut socket, &mut { service });
    assert_eq!(env.counters(socket.peer.unwrap().service).flows, flows + 1);
}

#[test]
fn a_connected_socket_is_led_once_and_remembers() {
    connected_sockets::<Ipv4>();
    connected_sockets::<Ipv6>();
}

fn refused_sockets<A: Test>()
where
    HostEnv: Env<A>,
    DatagramKey<A>: Hash + Eq,
{
    let places = A::places();
    let mut env = env(Origin::Node);
    let mut socket = HostSocket::<A>::new();
    let mut ask = |address, port| {
        let mut to = at(address, port, TCP);
        let outcome = connect(&mut env, &mut socket, &mut to);
        assert!(outcome == Outcome::Translated || to == at(address, port, TCP), "left as it was");
        outcome
    };
    assert_eq!(ask(places.to_nobody, 80), Outcome::Refused(DropReason::NoBackend));
    assert_eq!(ask(places.guarded, 80), Outcome::Dropped(DropReason::SourceRange));
    let no_port = Outcome::Refused(DropReason::UnknownPort);
    assert_eq!(ask(places.to_remote, 81), no_port, "a port that the ClusterIP has not");
    assert_eq!(ask(places.outside, 80), Outcome::Pass);
    assert_eq!(ask(places.node, LOCAL_NODE_PORT), Outcome::Translated);
    let mut bound = HostSocket::<A>::new();
    bound.source = A::of(places.outside);
    assert_eq!(connect(&mut env, &mut bound, &mut at(places.guarded, 80, TCP)), Outcome::Translated);
}

#[test]
fn a_socket_hears_what_a_packet_would() {
    refused_sockets::<Ipv4>();
    refused_sockets::<Ipv6>();
}

fn datagram_sockets<A: Test>()
where
    HostEnv: Env<A>,
    DatagramKey<A>: Hash + Eq,
{
    let places = A::places();
    let mut env = env(Origin::Node);
    let mut socket = HostSocket::<A>::new();
    for service in [places.to_remote, places.to_neighbour] {
        let mut to = at(service, 80, UDP);
        assert_eq!(send(&mut env, &mut socket, &mut to), Outcome::Translated);
        let mut from = to;
        assert_eq!((sender(&mut socket, &mut from), from), (Outcome::Translated, at(service, 80, UDP)));
        let (id, flows) = {
            let known = socket.datagrams.values().find(|known| known.frontend == A::of(service)).unwrap();
            (known.service, env.counters(known.service).flows)
        };
        let mut again = at(service, 80, UDP);
        send(&mut env, &mut socket, &mut again);
        assert_eq!((again, env.counters(id).flows), (to, flows), "one flow");
        // Idle for longer than a flow of packets may be.
        env.now += 121;
        send(&mut env, &mut socket, &mut at(service, 80, UDP));
        assert_eq!(env.counters(id).flows, flows + 1);
    }
    assert_eq!(send(&mut env, &mut socket, &mut at(places.outside, 80, UDP)), Outcome::Pass);
    let nobody = Outcome::Refused(DropReason::NoBackend);
    assert_eq!(send(&mut env, &mut socket, &mut at(places.to_nobody, 80, UDP)), nobody);
}

#[test]
fn a_socket_that_names_its_destination_each_time_has_a_flow_for_each() {
    datagram_sockets::<Ipv4>();
    datagram_sockets::<Ipv6>();
    let mut env = env(Origin::Node);
    let mut socket = HostSocket::<Ipv4>::new();
    let to = at(Places::v4().to_remote, 80, UDP);
    assert_eq!(send(&mut env, &mut socket, &mut { to }), Outcome::Translated);
    env.remove_backends_v4();
    assert_eq!(
        send(&mut env, &mut socket, &mut { to }),
        Outcome::Refused(DropReason::NoBackend),
        "its backend is gone, and no other is there"
    );
}

#[test]
fn of_a_pod_s_sockets_only_what_needs_no_more_than_a_destination() {
    let places = Places::v4();
    let mut env = env(Origin::Pods);
    let mut socket = HostSocket::<Ipv4>::new();
    let mut ask = |address, port, proto| connect(&mut env, &mut socket, &mut at(address, port, proto));
    assert_eq!(ask(places.to_remote, 80, TCP), Outcome::Translated);
    assert_eq!(ask(places.to_remote, 80, UDP), Outcome::Pass, "UDP");
    assert_eq!(ask(places.guarded, 80, TCP), Outcome::Pass, "source ranges");
    assert_eq!(ask(places.node, LOCAL_NODE_PORT, TCP), Outcome::Pass, "masquerade");
}

#[test]
fn loopback_is_for_the_node_alone() {
    assert!(Ipv4::new([127, 1, 2, 3]).is_loopback() && !Ipv4::new([128, 0, 0, 1]).is_loopback());
    let mut one = [0; 16];
    one[15] = 1;
    assert!(Ipv6::new(one).is_loopback() && !Ipv6::default().is_loopback());
    one[0] = 1;
    assert!(!Ipv6::new(one).is_loopback());
}
