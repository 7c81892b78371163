//! A path narrower than its ends: whoever sends too much must learn it, through the proxy.

use std::io;
use std::time::Duration;

use proxy_testkit::Lab;
use proxy_testkit::client::{connect_udp, describe, never_fragment, path_mtu};
use proxy_testkit::lab::{Family, Host, Protocol};
use proxy_testkit::server::{ECHO, WHO};

use crate::common::{STREAM, UDP, alone, usual};

/// Above IPv6's least, below all the lab's own.
pub(crate) const NARROW: usize = 1300;
const PORT: u16 = 30085;
const STREAM_PORT: u16 = 30087;

/// Sends big datagrams that must not be fragmented until the kernel says that they are too big.
pub(crate) fn learns_by_udp(from: &Host, family: Family, to: std::net::SocketAddr) {
    let learnt = from.inside(|| {
        let socket = connect_udp(to)?;
        never_fragment(&socket)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        for _ in 0..20 {
            match socket.send(&[b'x'; NARROW + 50]).and_then(|_| socket.recv(&mut [0u8; 64])) {
                Err(error) if describe(&error) == "EMSGSIZE" => return path_mtu(&socket, family),
                // The error of the packet before may come a moment late.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Err(io::Error::other(format!("neither EMSGSIZE nor silence: {other:?}"))),
            }
        }
        Err(io::Error::other("the client never learnt it"))
    });
    let way = format!("{} to {to}, UDP", from.name);
    let learnt = learnt.unwrap_or_else(|error| panic!("{way}: {error}"));
    assert_eq!(usize::try_from(learnt).unwrap(), NARROW, "{way}");
}

pub(crate) fn streams(from: &Host, to: std::net::SocketAddr) {
    from.stream(to, 2 << 20).unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name));
}

#[test]
fn a_pod_learns_of_a_narrow_tunnel_through_a_cluster_ip() {
    let lab = alone(Lab::standard);
    let service = usual("narrow", 70, [&lab.node2.a]);
    let _published = lab.publish(&service).unwrap();
    lab.node1.host.ns.ip(&format!("link set flannel.1 mtu {NARROW}")).unwrap();
    for family in Family::BOTH {
        learns_by_udp(&lab.node1.a, family, service.at(family, UDP));
        streams(&lab.node1.b, service.at(family, STREAM));
    }
    assert_eq!(lab.invalid_packets().unwrap(), 0);
}

#[test]
fn a_pod_learns_of_a_narrow_link_behind_the_other_node_through_a_cluster_ip() {
    let lab = alone(Lab::standard);
    let service = usual("narrow", 70, [&lab.node2.a]);
    let _published = lab.publish(&service).unwrap();
    lab.node2.host.ns.ip(&format!("link set cali10 mtu {NARROW}")).unwrap();
    for family in Family::BOTH {
        learns_by_udp(&lab.node1.a, family, service.at(family, UDP));
        streams(&lab.node1.b, service.at(family, STREAM));
    }
    assert_eq!(lab.invalid_packets().unwrap(), 0);
}

#[test]
fn a_client_outside_learns_of_both_through_a_masqueraded_node_port() {
    for (node, device) in [(1, "flannel.1"), (2, "cali10")] {
        let lab = alone(Lab::standard);
        let service = usual("narrow", 70, [])
            .port(Protocol::Udp, 81, WHO)
            .node_port(PORT)
            .port(Protocol::Tcp, 82, ECHO)
            .node_port(STREAM_PORT)
            .backends([&lab.node2.a]);
        let _published = lab.publish(&service).unwrap();
        let narrow = if node == 1 { &lab.node1 } else { &lab.node2 };
        narrow.host.ns.ip(&format!("link set {device} mtu {NARROW}")).unwrap();
        for family in Family::BOTH {
            println!("{device} of node{node} is narrow, {family:?}");
            learns_by_udp(&lab.client, family, lab.node1.host.at(family, PORT));
            streams(&lab.client, lab.node1.host.at(family, STREAM_PORT));
        }
        assert_eq!(lab.invalid_packets().unwrap(), 0);
    }
}

#[test]
fn a_remote_pod_learns_of_a_narrow_way_to_a_masqueraded_client() {
    let lab = alone(Lab::standard);
    let service = usual("narrow", 70, []).port(Protocol::Tcp, 82, ECHO).node_port(STREAM_PORT).backends([&lab.node2.a]);
    let _published = lab.publish(&service).unwrap();
    // Only towards the client: its packets come in at full size, the pod's answers do not fit.
    let (v4, v6) = (lab.client.v4, lab.client.v6);
    let routes = format!("route add {v4}/32 dev eth0 mtu {NARROW}\nroute add {v6}/128 dev eth0 mtu {NARROW}");
    lab.node1.host.ns.ip(&routes).unwrap();
    for family in Family::BOTH {
        streams(&lab.client, lab.node1.host.at(family, STREAM_PORT));
    }
    assert_eq!(lab.invalid_packets().unwrap(), 0);
}
