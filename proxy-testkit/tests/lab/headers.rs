//! Headers that are not the usual ones: extension headers, no checksum, tags, and lies.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use nix::libc;
use proxy_testkit::Lab;
use proxy_testkit::client::{self, HeaderOption, PATIENCE};
use proxy_testkit::lab::{Family, Host, Protocol};
use proxy_testkit::manifest::Service;
use proxy_testkit::packets::{put, tcp, udp, with_checksums, with_extensions};
use proxy_testkit::raw::{DatagramTap, FrameSender, RawSender};
use proxy_testkit::server::{ECHO, WHO};
use proxy_testkit::shell;
use socket2::{Domain, Socket, Type};

use crate::common::{STREAM, TCP, UDP, standard, usual};

const UDP_PORT: u16 = 30141;
const ECHO_PORT: u16 = 30142;
/// What a server of a test itself listens on.
const TARGET: u16 = 9_141;

/// A Service with a port of every node for UDP and for streams.
fn service(name: &str, number: u8, target: u16, backend: &Host) -> Service {
    usual(name, number, [])
        .port(Protocol::Udp, 81, target)
        .node_port(UDP_PORT)
        .port(Protocol::Tcp, 82, ECHO)
        .node_port(ECHO_PORT)
        .backends([backend])
}

/// A TCP connection whose packets all have an extension header behind their IP header.
fn connect_with(option: HeaderOption, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    option.set(&socket)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

#[test]
fn ipv6_extension_headers_arrive_by_every_way() {
    let lab = standard();
    let invalid = lab.invalid_packets().unwrap();
    let (one, two) = (&lab.node1, &lab.node2);
    for backend in [&one.a, &two.a] {
        let service = service("extended", 141, WHO, backend);
        let published = lab.publish(&service).unwrap();
        let inside = [&one.b, &two.b].map(|from| (from, service.at(Family::V6, UDP), service.at(Family::V6, STREAM)));
        let outside = [one, two].map(|entry| {
            let host = &entry.host;
            (&lab.client, host.at(Family::V6, UDP_PORT), host.at(Family::V6, ECHO_PORT))
        });
        for (from, who, echo) in inside.into_iter().chain(outside) {
            // Made by hand: hop-by-hop options, destination options, a fragment header of a whole packet, and all in a row.
            for chain in [&[0][..], &[60], &[44], &[0, 60, 44, 60]] {
                let way = format!("{} to {} by {who}, {chain:?}", from.name, backend.name);
                let ask = || {
                    let socket = client::connect_udp(who)?;
                    let packet = with_extensions(&udp(socket.local_addr()?, who, b"who"), chain, 0);
                    RawSender::new(Family::V6)?.send(&packet, who)?;
                    client::receive(&socket)
                };
                let (answer, _) = from.inside(ask).unwrap_or_else(|error| panic!("{way}: {error}"));
                assert_eq!(answer.pod, backend.name, "{way}");
            }
            // By the kernel's own TCP, a packet at a time: where every packet has such a header, many at once stand still now and then
            // on this kernel (6.18) between bare namespaces, without any proxy.
            for option in [HeaderOption::HopByHop, HeaderOption::Destination] {
                let way = format!("{} to {} by {echo}, TCP with {option:?} options", from.name, backend.name);
                let talk = || {
                    let mut stream = connect_with(option, echo)?;
                    for turn in 0..100 {
                        let (word, mut back) = ([turn; 1_000], [0; 1_000]);
                        stream.write_all(&word)?;
                        stream.read_exact(&mut back)?;
                        assert!(back == word, "{way}: word {turn} came back altered");
                    }
                    Ok(())
                };
                from.inside(talk).unwrap_or_else(|error| panic!("{way}: {error}"));
            }
        }
        lab.withdraw(published).unwrap();
    }
    assert_eq!(lab.invalid_packets().unwrap(), invalid, "conntrack called packets invalid");
}

/// Has a UDP socket send without a checksum, as IPv4 allows (RFC 768).
fn without_checksum(socket: &UdpSocket) -> io::Result<()> {
    client::set_option(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
}

#[test]
fn udp_without_a_checksum_stays_so_by_every_way_and_back() {
    let lab = standard();
    let (one, two) = (&lab.node1, &lab.node2);
    let family = Family::V4;
    for backend in [&one.a, &two.a] {
        let service = usual("sumless", 142, []).port(Protocol::Udp, 81, TARGET).node_port(UDP_PORT).backends([backend]);
        let published = lab.publish(&service).unwrap();
        let server = backend.inside(|| UdpSocket::bind(backend.at(family, TARGET))).unwrap();
        without_checksum(&server).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let there = backend.inside(|| DatagramTap::new(family, PATIENCE)).unwrap();
        for (from, to) in [
            (&one.b, service.at(family, 81)),
            (&two.b, service.at(family, 81)),
            (&lab.client, one.host.at(family, UDP_PORT)),
            (&lab.client, two.host.at(family, UDP_PORT)),
        ] {
            let way = format!("{} to {} by {to}", from.name, backend.name);
            let back = from.inside(|| DatagramTap::new(family, PATIENCE)).unwrap();
            let client = from.inside(|| client::connect_udp(to)).unwrap();
            without_checksum(&client).unwrap();
            for word in [&b"a question"[..], b"and another one"] {
                client.send(word).unwrap();
                let mut text = [0; 64];
                let (length, peer) = server.recv_from(&mut text).unwrap_or_else(|error| panic!("{way}: {error}"));
                assert_eq!(&text[..length], word, "{way}");
                server.send_to(&text[..length], peer).unwrap();
                let length = client.recv(&mut text).unwrap_or_else(|error| panic!("{way}, back: {error}"));
                assert_eq!(&text[..length], word, "{way}, back");
                for (tap, port) in [(&there, TARGET), (&back, client.local_addr().unwrap().port())] {
                    let seen = tap.next().unwrap().unwrap();
                    assert_eq!(
                        (seen.to_port, seen.length, seen.has_checksum),
                        (port, word.len(), false),
                        "{way}: {seen:?}"
                    );
                }
            }
        }
        lab.withdraw(published).unwrap();
    }
}

/// The Ethernet address of a device of a host.
fn ethernet(host: &Host, device: &str) -> [u8; 6] {
    let shown = shell::run(host.ns.command("ip").args(["-j", "link", "show", device])).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let text = shown[0]["address"].as_str().unwrap();
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A frame from one Ethernet address to another, with a VLAN tag (IEEE 802.1Q) if one is given.
fn frame(from: [u8; 6], to: [u8; 6], tag: Option<u16>, packet: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    if let Some(tag) = tag {
        frame.extend([0x81, 0x00]);
        frame.extend(tag.to_be_bytes());
    }
    let is_v4 = packet.first().is_none_or(|byte| byte >> 4 != 6);
    frame.extend(if is_v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame.extend(packet);
    frame
}

/// Priority 5, of no VLAN: the frame is for the device itself (IEEE 802.1Q, a priority-tagged frame). And VLAN 7, of which there is
/// no device: for nobody.
#[test]
fn frames_with_a_priority_are_served_and_those_of_other_vlans_are_left_alone() {
    const PRIORITY: u16 = 5 << 13;
    let lab = standard();
    for backend in [&lab.node1.a, &lab.node2.a] {
        let service = service("tagged", 143, WHO, backend);
        let published = lab.publish(&service).unwrap();
        for family in Family::BOTH {
            let (node, client) = (&lab.node1.host, &lab.client);
            let to = node.at(family, UDP_PORT);
            let ends = [ethernet(client, "eth0"), ethernet(node, "eth0")];
            let ask = |tag, patience| {
                client.inside(|| {
                    let socket = client::connect_udp(to)?;
                    socket.set_read_timeout(Some(patience))?;
                    let packet = udp(socket.local_addr()?, to, b"who");
                    FrameSender::new("eth0")?.send(&frame(ends[0], ends[1], Some(tag), &packet))?;
                    client::receive(&socket)
                })
            };
            let way = format!("{family:?} to {}", backend.name);
            let (answer, _) = ask(PRIORITY, PATIENCE).unwrap_or_else(|error| panic!("{way}, with a priority: {error}"));
            assert_eq!(answer.pod, backend.name, "{way}");
            let error = ask(PRIORITY | 7, Duration::from_millis(200)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{way}: answered in VLAN 7");
        }
        lab.withdraw(published).unwrap();
    }
}

/// Every beginning of a packet, and a lie in every length field.
fn lies(from: SocketAddr, to: SocketAddr) -> Vec<Vec<u8>> {
    let is_v4 = from.is_ipv4();
    let header = if is_v4 { 20 } else { 40 };
    let (length, base) = if is_v4 { (2, 20) } else { (4, 0) };
    let (syn, question) = (tcp(from, to, "S", b"data"), udp(from, to, b"data"));
    let mut all = Vec::new();
    for packet in [&syn, &question] {
        all.extend((1..packet.len()).map(|end| packet[..end].to_vec()));
        // Not 0, which is what segments beyond 64 KiB have on their way through a host.
        for total in [base + 1, base + 3, base + 7, 200, 0xffff] {
            let mut lie = packet.clone();
            put(&mut lie, length, total);
            all.push(lie);
        }
        if is_v4 {
            for first in [0x40, 0x44, 0x4f, 0x55, 0x05] {
                let mut lie = packet.clone();
                lie[0] = first;
                all.push(lie);
            }
        }
    }
    for (packet, at, values) in [(&syn, 12, [0x00, 0x40, 0xf0]), (&question, 5, [0, 7, 13])] {
        for value in values {
            let mut lie = packet.clone();
            lie[header + at] = value;
            all.push(lie);
        }
    }
    if !is_v4 {
        // Extension headers that go beyond the packet, or never end.
        for (chain, length) in [(&[0][..], 200), (&[60], 9), (&[60; 7], 0)] {
            let mut lie = with_extensions(&question, chain, 0);
            lie[41] = length;
            all.push(lie);
        }
    }
    if is_v4 {
        // With a right checksum of the IP header, so that it is the length that decides.
        for lie in all.iter_mut().filter(|lie| lie.len() >= 20) {
            put(lie, 10, 0);
            let (head, rest) = lie.split_at(20);
            *lie = [with_checksums(head.to_vec(), 0, 10), rest.to_vec()].concat();
        }
    }
    all
}

/// The flows of all nodes whose client has this port.
fn flows_of(lab: &Lab, port: u16) -> Vec<serde_json::Value> {
    let is_ours = |flow: &serde_json::Value| {
        let client: Option<SocketAddr> = flow["client"].as_str().and_then(|client| client.parse().ok());
        client.is_some_and(|client| client.port() == port)
    };
    let of = |agent: &proxy_testkit::agent::Agent| match agent.look_json("flows").unwrap() {
        serde_json::Value::Array(flows) => flows,
        other => panic!("no list: {other}"),
    };
    lab.agents().iter().flat_map(of).filter(is_ours).collect()
}

#[test]
fn runts_and_lies_about_lengths_harm_nobody_and_begin_no_flow() {
    // None that Linux gives sockets by itself: connections of other tests may be there yet.
    const OWN_PORT: u16 = 61_444;
    let lab = standard();
    let (node, backend) = (&lab.node1.host, &lab.node2.a);
    let service = service("truthful", 144, WHO, backend);
    let _published = lab.publish(&service).unwrap();
    for family in Family::BOTH {
        assert_eq!(flows_of(&lab, OWN_PORT), [serde_json::Value::Null; 0], "{family:?}: there before");
        let tap = backend.inside(|| DatagramTap::new(family, Duration::from_millis(300))).unwrap();
        // From outside, to the node's uplink; from a pod, to the bridge that is its gateway.
        let pod = &lab.node1.b;
        let mut sent = Vec::new();
        for (from, next, to) in [
            (&lab.client, "eth0", node.at(family, UDP_PORT)),
            (&lab.client, "eth0", node.at(family, ECHO_PORT)),
            (pod, "cni0", service.at(family, UDP)),
            (pod, "cni0", service.at(family, STREAM)),
        ] {
            let ends = [ethernet(from, "eth0"), ethernet(node, next)];
            let lies = lies(from.at(family, OWN_PORT), to);
            let send = || {
                let sender = FrameSender::new("eth0")?;
                lies.iter().try_for_each(|lie| sender.send(&frame(ends[0], ends[1], None, lie)))
            };
            from.inside(send).unwrap();
            sent.push((from.name.clone(), to, lies.len()));
        }
        println!("{family:?}: runts and lies sent: {sent:?}");
        // What comes after them is served, so they have been seen.
        for (from, who, echo) in [
            (&lab.client, node.at(family, UDP_PORT), node.at(family, ECHO_PORT)),
            (pod, service.at(family, UDP), service.at(family, STREAM)),
        ] {
            assert_eq!(from.ask(Protocol::Udp, who).unwrap().pod, backend.name);
            from.stream(echo, 1 << 16).unwrap();
        }
        assert_eq!(pod.ask(Protocol::Tcp, service.at(family, TCP)).unwrap().pod, backend.name);
        assert_eq!(flows_of(&lab, OWN_PORT), [serde_json::Value::Null; 0], "{family:?}: a lie has begun a flow");
        while let Some(seen) = tap.next().unwrap() {
            // The questions above.
            assert_eq!((seen.to_port, seen.length), (WHO, 3), "{family:?}: {seen:?}");
        }
    }
    assert!(lab.agents().iter().all(|agent| agent.pid().is_some()), "an agent has ended");
}
