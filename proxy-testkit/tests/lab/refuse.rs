//! A Service without endpoints says so at once.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use proxy_testkit::lab::{Family, Host, Protocol};
use proxy_testkit::manifest::Service;
use proxy_testkit::server::WHO;

use crate::common::{standard, usual};

const PORT: u16 = 30081;
/// Well under the second after which TCP sends its first packet again: an answer, not luck.
const AT_ONCE: Duration = Duration::from_millis(500);

fn is_refused(from: &Host, protocol: Protocol, to: std::net::SocketAddr) {
    let started = Instant::now();
    let error = from.ask(protocol, to).unwrap_err();
    let taken = started.elapsed();
    let way = format!("{} to {to}, {protocol:?}", from.name);
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{way}: {error} after {taken:?}");
    assert!(taken < AT_ONCE, "{way}: refused after {taken:?}");
}

#[test]
fn clients_of_a_service_without_endpoints_are_refused_at_once() {
    let lab = standard();
    let empty = Service::new("empty", 30)
        .port(Protocol::Tcp, 80, WHO)
        .node_port(PORT)
        .port(Protocol::Udp, 80, WHO)
        .node_port(PORT);
    let _published = lab.publish(&empty).unwrap();
    for family in Family::BOTH {
        for protocol in Protocol::BOTH {
            for node in lab.nodes() {
                is_refused(&node.a, protocol, empty.at(family, 80));
                is_refused(&node.a, protocol, node.host.at(family, PORT));
                is_refused(&lab.client, protocol, node.host.at(family, PORT));
            }
            is_refused(&lab.node1.a, protocol, lab.node2.host.at(family, PORT));
        }
    }
}

#[test]
fn clients_of_a_port_that_the_service_has_not_are_refused_at_once() {
    let lab = standard();
    let service = usual("without-it", 31, [&lab.node1.a, &lab.node2.a]);
    let _published = lab.publish(&service).unwrap();
    for family in Family::BOTH {
        for protocol in Protocol::BOTH {
            for from in [&lab.node1.b, &lab.node2.b] {
                is_refused(from, protocol, service.at(family, 4_444));
            }
        }
    }
}
