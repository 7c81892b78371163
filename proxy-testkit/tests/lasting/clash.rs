//! One client port that is led to one backend by several ways: the backend must be able to tell its connections apart.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use proxy_testkit::client::PATIENCE;
use proxy_testkit::lab::{Family, Host, Protocol};
use proxy_testkit::manifest::Service;

use crate::common::{TCP, UDP, standard};
use crate::metrics;
use crate::sockets::{connect_from, connect_udp_from};

/// Ports of every node, for each of the two Services.
const TCP_PORTS: [u16; 2] = [30063, 30064];
const UDP_PORTS: [u16; 2] = [30065, 30066];
/// What the backend listens on, and the client's port.
const TARGET: u16 = 9_160;
const OWN_PORT: u16 = 61_001;

fn services(backend: &Host) -> [Service; 2] {
    [0, 1].map(|number| {
        Service::new(&format!("door-{number}"), if number == 0 { 115 } else { 116 })
            .port(Protocol::Tcp, TCP, TARGET)
            .node_port(TCP_PORTS[number])
            .port(Protocol::Udp, UDP, TARGET)
            .node_port(UDP_PORTS[number])
            .backends([backend])
    })
}

/// How many flows got another source port on a node.
fn changed(node: &Host) -> f64 {
    metrics::value(node, "pointsman_flow_table_events_total{event=\"port_changed\"}")
}

/// Connects to each target from one port, and says words on all of the connections in turn. Gives what the backend saw.
fn by_tcp(from: &Host, family: Family, targets: &[SocketAddr], backend: &Host) -> BTreeSet<SocketAddr> {
    let listener = backend.inside(|| TcpListener::bind(backend.at(family, TARGET))).unwrap();
    let mut pairs: Vec<(TcpStream, TcpStream, SocketAddr)> = Vec::new();
    for to in targets {
        let client = from.inside(|| connect_from(from.at(family, OWN_PORT), *to));
        let client = client.unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name));
        let (server, seen) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        pairs.push((client, server, seen));
    }
    let pass = |from: &mut TcpStream, to: &mut TcpStream, word: [u8; 8]| -> io::Result<()> {
        from.write_all(&word)?;
        let mut read = [0; 8];
        to.read_exact(&mut read)?;
        assert_eq!(read, word);
        Ok(())
    };
    for turn in 0..20_u64 {
        for (number, (client, server, _)) in pairs.iter_mut().enumerate() {
            let word = (turn << 8 | number as u64).to_be_bytes();
            pass(client, server, word).and_then(|()| pass(server, client, word)).unwrap();
        }
    }
    for (client, ..) in &pairs {
        crate::sockets::reset_on_drop(client).unwrap();
    }
    pairs.iter().map(|(_, _, seen)| *seen).collect()
}

/// The same with a socket for each target, all at one port.
fn by_udp(from: &Host, family: Family, targets: &[SocketAddr], backend: &Host) -> BTreeSet<SocketAddr> {
    let bind = || UdpSocket::bind(backend.at(family, TARGET));
    let server = backend.inside(bind).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let connect = |to: &SocketAddr| from.inside(|| connect_udp_from(from.at(family, OWN_PORT), *to)).unwrap();
    let clients: Vec<UdpSocket> = targets.iter().map(connect).collect();
    let mut seen = BTreeSet::new();
    let mut word = [0; 8];
    for turn in 0..20_u64 {
        for (number, client) in clients.iter().enumerate() {
            let question = (turn << 8 | number as u64).to_be_bytes();
            client.send(&question).unwrap();
            let (_, peer) = server.recv_from(&mut word).unwrap();
            seen.insert(peer);
            assert_eq!(word, question);
            server.send_to(&word, peer).unwrap();
            word = [0; 8];
            client.recv(&mut word).unwrap();
            assert_eq!(word, question, "an answer to another socket of the same port");
        }
    }
    seen
}

#[test]
fn one_client_port_through_several_frontends_to_one_backend_is_several_connections() {
    let lab = standard();
    let (n1, n2) = (&lab.node1, &lab.node2);
    for backend in [&n1.b, &n2.b] {
        let both = services(backend);
        let published = both.each_ref().map(|service| lab.publish(service).unwrap());
        for family in Family::BOTH {
            // Last, past all Services.
            let itself = backend.at(family, TARGET);
            let inside = |port, ports: [u16; 2]| {
                let cluster_ips = both.iter().map(move |service| service.at(family, port));
                let node_ports = ports.map(|port| n1.host.at(family, port));
                cluster_ips.chain(node_ports).chain([itself]).collect::<Vec<_>>()
            };
            let outside = |ports: [u16; 2]| {
                let node_ports = ports.map(|port| n1.host.at(family, port)).into_iter();
                node_ports.chain([itself]).collect::<Vec<_>>()
            };
            for (from, tcp, udp) in [
                // Two Services' ClusterIPs, and both Services' ports of the own node.
                (&n1.c, inside(TCP, TCP_PORTS), inside(UDP, UDP_PORTS)),
                // Masqueraded where the backend is on the other node.
                (&lab.client, outside(TCP_PORTS), outside(UDP_PORTS)),
            ] {
                let way = format!("{} to {}, {family:?}", from.name, backend.name);
                let before = changed(&n1.host);
                for (protocol, targets, seen) in [
                    ("TCP", tcp.len(), by_tcp(from, family, &tcp, backend)),
                    ("UDP", udp.len(), by_udp(from, family, &udp, backend)),
                ] {
                    println!("{way}, {protocol}: the backend saw {seen:?}");
                    assert_eq!(seen.len(), targets, "{way}, {protocol}: {seen:?}");
                }
                assert!(changed(&n1.host) > before, "{way}: no source port was changed");
            }
        }
        for published in published {
            lab.withdraw(published).unwrap();
        }
    }
}
