//! Datagrams that do not travel as one packet: IP fragments, and segments that the kernel cuts at the last moment.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use proxy_testkit::client;
use proxy_testkit::lab::{Family, Host, Protocol};
use proxy_testkit::packets::{fragments, udp};
use proxy_testkit::raw::RawSender;
use proxy_testkit::server::WHO;

use crate::common::{UDP, standard, usual};

const PORT: u16 = 30140;
/// Four fragments, whatever the way's MTU is.
const BIG: usize = 5_000;

/// A datagram and its answer, both in fragments.
fn asks_at_length(from: &Host, to: SocketAddr, pod: &Host) {
    let way = format!("{} to {} by {to}", from.name, pod.name);
    // Each time from another port.
    for _ in 0..3 {
        // IPv6 tells a socket of a path MTU that is below its device's, and the program has to send again.
        let mut answer = from.inside(|| client::ask_udp_at_length(to, BIG));
        if answer.as_ref().is_err_and(|error| client::describe(error) == "EMSGSIZE") {
            answer = from.inside(|| client::ask_udp_at_length(to, BIG));
        }
        let (answer, length) = answer.unwrap_or_else(|error| panic!("{way}: {error}"));
        assert_eq!((answer.pod.as_str(), length), (pod.name.as_str(), BIG), "{way}");
    }
}

/// Datagrams that leave the socket as one packet (UDP_SEGMENT).
fn asks_in_segments(from: &Host, to: SocketAddr, pod: &Host) {
    let way = format!("{} to {} by {to}, in segments", from.name, pod.name);
    let answers = from.inside(|| client::ask_in_segments(to, 1_000, 8));
    let answers = answers.unwrap_or_else(|error| panic!("{way}: {error}"));
    assert_eq!(answers.len(), 8, "{way}");
    for (answer, length) in answers {
        assert_eq!((answer.pod.as_str(), length), (pod.name.as_str(), 1_000), "{way}");
    }
}

/// By ClusterIP of pods on both nodes, the backend itself among them; by NodePort of a client outside; by an address of a load
/// balancer of both.
fn on_every_way(asks: impl Fn(&Host, SocketAddr, &Host)) {
    let lab = standard();
    let invalid = lab.invalid_packets().unwrap();
    let balancer: [IpAddr; 2] = ["203.0.113.140".parse().unwrap(), "fd00:203:113::140".parse().unwrap()];
    for (family, address) in Family::BOTH.into_iter().zip(balancer) {
        // A node takes packets for it, as if the load balancer had sent them there.
        lab.client.ns.ip(&format!("route replace {address} via {}", lab.node1.host.ip(family))).unwrap();
    }
    for backend in [&lab.node1.a, &lab.node2.a] {
        let service = usual("awkward", 140, []).port(Protocol::Udp, 81, WHO).node_port(PORT);
        let service = service.load_balancer(balancer, &[]).backends([backend]);
        let published = lab.publish(&service).unwrap();
        for (family, address) in Family::BOTH.into_iter().zip(balancer) {
            for from in [&lab.client, &lab.node1.b, &lab.node2.b] {
                asks(from, SocketAddr::new(address, UDP), backend);
            }
            for from in [&lab.node1.b, &lab.node2.b, backend] {
                asks(from, service.at(family, UDP), backend);
            }
            for entry in lab.nodes() {
                asks(&lab.client, entry.host.at(family, PORT), backend);
            }
        }
        lab.withdraw(published).unwrap();
    }
    assert_eq!(lab.invalid_packets().unwrap(), invalid, "conntrack called packets invalid");
}

#[test]
fn fragments_arrive_by_every_way_and_so_do_their_answers() {
    on_every_way(asks_at_length);
}

#[test]
fn udp_segments_arrive_by_every_way() {
    on_every_way(asks_in_segments);
}

/// Which piece is sent when, of so many.
type Order = fn(usize) -> Vec<usize>;

/// The last first; and the first somewhere in the middle.
const ORDERS: [(&str, Order); 3] = [
    ("backwards", |count| (0..count).rev().collect()),
    ("the first third", |count| [1, 2, 0].into_iter().chain(3..count).collect()),
    ("the first last", |count| (1..count).chain([0]).collect()),
];

/// Asks with a datagram of 8 kB whose fragments leave in an order of our own.
fn asks_in_disorder(from: &Host, to: SocketAddr, pod: &str) {
    static ID: AtomicU16 = AtomicU16::new(1);
    const SIZE: usize = 8_000;
    for (order, numbers) in ORDERS {
        let way = format!("{} to {pod} by {to}, {order}", from.name);
        let ask = || {
            let socket = client::connect_udp(to)?;
            let packet = udp(socket.local_addr()?, to, &[b'?'; SIZE]);
            let pieces = fragments(&packet, ID.fetch_add(1, Ordering::Relaxed), 1_200);
            let sender = RawSender::new(Family::of(to.ip()))?;
            for number in numbers(pieces.len()) {
                sender.send(&pieces[number], to)?;
            }
            client::receive(&socket)
        };
        let (answer, length) = from.inside(ask).unwrap_or_else(|error| panic!("{way}: {error}"));
        assert_eq!((answer.pod.as_str(), length), (pod, SIZE), "{way}");
    }
}

#[test]
fn fragments_arrive_in_any_order_by_every_way() {
    on_every_way(|from, to, pod| asks_in_disorder(from, to, &pod.name));
}

#[test]
fn fragments_in_any_order_that_are_for_no_service_arrive_as_well() {
    const OWN: u16 = 9_140;
    let mut lab = standard();
    let node = lab.node1.host.clone();
    lab.serve(&node, Protocol::Udp, OWN).unwrap();
    for family in Family::BOTH {
        asks_in_disorder(&lab.client, node.at(family, OWN), &node.name);
        for pod in [&lab.node1.b, &lab.node2.b] {
            asks_in_disorder(&lab.node1.a, pod.at(family, WHO), &pod.name);
        }
    }
}
