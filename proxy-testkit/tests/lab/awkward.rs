//! Datagrams that do not travel as one packet: IP fragments, and segments that the kernel cuts at the last moment.

use std::net::SocketAddr;

use proxy_testkit::client;
use proxy_testkit::lab::{Family, Host, Protocol};
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

fn on_every_way(asks: impl Fn(&Host, SocketAddr, &Host)) {
    let lab = standard();
    let invalid = lab.invalid_packets().unwrap();
    for backend in [&lab.node1.a, &lab.node2.a] {
        let service = usual("awkward", 140, []).port(Protocol::Udp, 81, WHO).node_port(PORT).backends([backend]);
        let published = lab.publish(&service).unwrap();
        for family in Family::BOTH {
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
