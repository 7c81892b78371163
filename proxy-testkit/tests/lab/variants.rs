//! Other networks than the standard lab's: the same must hold in each.

use proxy_testkit::Lab;
use proxy_testkit::lab::{Family, Host, Options, Overlay, Protocol};
use proxy_testkit::server::{ECHO, WHO};

use crate::common::{STREAM, alone, usual, who};

const PORT: u16 = 30070;
const STREAM_PORT: u16 = 30071;

#[test]
fn plain_routes_between_nodes() {
    serves(&Options { overlay: Overlay::Routes, ..Options::default() });
}

#[test]
fn a_tunnel_without_ethernet_headers_between_nodes() {
    serves(&Options { overlay: Overlay::Tun, ..Options::default() });
}

#[test]
fn a_bridge_that_passes_packets_through_netfilter() {
    serves(&Options { bridge_netfilter: true, ..Options::default() });
}

#[test]
fn a_network_that_masquerades_nothing_and_filters_nothing() {
    serves(&Options { rp_filter: false, masquerade: false, drop_invalid: false, ..Options::default() });
}

/// Pods and the client outside reach a pod of each node, itself included, and are seen as they should be.
fn serves(options: &Options) {
    let lab = alone(|| Lab::new(options.clone()));
    let (one, two) = (&lab.node1, &lab.node2);
    for backend in [&one.a, &two.a] {
        let service = usual("variant", 100, [])
            .port(Protocol::Tcp, 81, WHO)
            .node_port(PORT)
            .port(Protocol::Udp, 81, WHO)
            .node_port(PORT)
            .port(Protocol::Tcp, 82, ECHO)
            .node_port(STREAM_PORT)
            .backends([backend]);
        let published = lab.publish(&service).unwrap();
        for family in Family::BOTH {
            // The backend itself is among the pods: it meets itself as its node.
            for (node, from) in [(one, &one.a), (one, &one.b), (two, &two.a), (two, &two.b)] {
                for protocol in Protocol::BOTH {
                    let way = format!("{} to {} by ClusterIP, {family:?} {protocol:?}", from.name, backend.name);
                    let answer = from.ask(protocol, service.at(family, who(protocol)));
                    let answer = answer.unwrap_or_else(|error| panic!("{way}: {error}"));
                    let is_itself = from.name == backend.name;
                    let fair = if is_itself { node.owns(answer.seen) } else { from.has(answer.seen) };
                    assert!(fair && answer.pod == backend.name, "{way}: {answer:?}");
                }
                streams(from, service.at(family, STREAM));
            }
            for entry in [one, two] {
                let is_local = entry.pods().iter().any(|pod| pod.name == backend.name);
                for protocol in Protocol::BOTH {
                    let way = format!("client by {} to {}, {family:?} {protocol:?}", entry.host.name, backend.name);
                    let answer = lab.client.ask(protocol, entry.host.at(family, PORT));
                    let answer = answer.unwrap_or_else(|error| panic!("{way}: {error}"));
                    let fair = if is_local { lab.client.has(answer.seen) } else { entry.owns(answer.seen) };
                    assert!(fair && answer.pod == backend.name, "{way}: {answer:?}");
                }
                streams(&lab.client, entry.host.at(family, STREAM_PORT));
            }
        }
        lab.withdraw(published).unwrap();
    }
    assert_eq!(lab.invalid_packets().unwrap(), 0, "conntrack called packets invalid");
}

fn streams(from: &Host, to: std::net::SocketAddr) {
    from.stream(to, 4 << 20).unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name));
}
