//! Processes of the node itself: Services at their sockets.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::libc;
use proxy_testkit::Lab;
use proxy_testkit::agent::AgentOptions;
use proxy_testkit::client::{self, Answer};
use proxy_testkit::lab::{Family, Host, Options, Protocol, eventually};
use proxy_testkit::manifest::Service;
use proxy_testkit::server::{ECHO, WHO};

use crate::common::{STREAM, alone, standard, tally, usual, who};

const PORT: u16 = 30087;
/// Well under the second after which TCP sends its first packet again: an answer, not luck.
const AT_ONCE: Duration = Duration::from_millis(500);

fn localhost(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::LOCALHOST, port).into(),
        Family::V6 => (Ipv6Addr::LOCALHOST, port).into(),
    }
}

fn door(name: &str, number: u8) -> Service {
    Service::new(name, number)
        .port(Protocol::Tcp, 80, WHO)
        .node_port(PORT)
        .port(Protocol::Udp, 80, WHO)
        .node_port(PORT)
        .port(Protocol::Tcp, 7, ECHO)
}

/// Asks with one datagram of a socket that is not connected, and checks from where the answer comes.
fn ask_from(socket: &UdpSocket, to: SocketAddr) -> io::Result<Answer> {
    socket.send_to(b"who", to)?;
    let mut buffer = [0; 256];
    let (length, from) = socket.recv_from(&mut buffer)?;
    if from != to {
        return Err(io::Error::other(format!("asked {to}, and {from} answered")));
    }
    Answer::parse(&String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()))
}

fn unconnected(family: Family) -> io::Result<UdpSocket> {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(client::PATIENCE))?;
    Ok(socket)
}

fn mapped(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(address) => (address.to_ipv6_mapped(), to.port()).into(),
        IpAddr::V6(address) => (address, to.port()).into(),
    }
}

#[test]
fn a_process_of_the_node_reaches_every_kind_of_frontend_as_the_node() {
    let lab = standard();
    let external: [IpAddr; 2] = ["203.0.113.87".parse().unwrap(), "fd00:203:113::87".parse().unwrap()];
    let (one, two) = (&lab.node1, &lab.node2);
    let door = door("host-door", 70).load_balancer(external, &[]).backends([&one.a, &two.a]);
    let _published = lab.publish(&door).unwrap();
    for node in lab.nodes() {
        for (family, external) in Family::BOTH.into_iter().zip(external) {
            let frontends = [
                door.at(family, 80),
                node.host.at(family, PORT),
                localhost(family, PORT),
                SocketAddr::new(external, 80),
            ];
            for to in frontends {
                for protocol in Protocol::BOTH {
                    let way = format!("{} to {to}, {protocol:?}", node.host.name);
                    let answers = node.host.ask_many(protocol, to, 40).unwrap_or_else(|error| panic!("{way}: {error}"));
                    // A backend left out by chance: 2 × 0.5^40.
                    let pods = tally(answers.iter().map(|answer| answer.pod.as_str()));
                    assert_eq!(pods.into_keys().collect::<Vec<_>>(), [&*one.a.name, &*two.a.name], "{way}");
                    for answer in answers {
                        assert!(node.owns(answer.seen), "{way}: {} saw {}", answer.pod, answer.seen);
                    }
                }
            }
            node.host.stream(door.at(family, 7), 4 << 20).unwrap();
        }
    }
}

#[test]
fn the_frontend_is_what_a_process_sees() {
    let lab = standard();
    let door = door("host-view", 71).backends([&lab.node2.a]);
    let _published = lab.publish(&door).unwrap();
    let node = &lab.node1.host;
    let view = |to: SocketAddr| {
        let inside = move || {
            let tcp = client::connect(to)?.peer_addr()?;
            let udp = client::connect_udp(to)?;
            assert_eq!((tcp, udp.peer_addr()?), (to, to), "getpeername");
            client::ask_again(&udp)?;
            let socket = unconnected(if to.is_ipv4() { Family::V4 } else { Family::V6 })?;
            for _ in 0..3 {
                assert_eq!(ask_from(&socket, to)?.pod, "pod2a");
            }
            Ok(())
        };
        node.inside(inside).unwrap_or_else(|error| panic!("{to}: {error}"));
    };
    for family in Family::BOTH {
        view(door.at(family, 80));
        view(localhost(family, PORT));
        view(node.at(family, PORT));
    }
    // IPv4 by way of an IPv6 socket.
    view(mapped(door.at(Family::V4, 80)));
}

#[test]
fn a_socket_that_names_its_destination_each_time_stays_with_a_backend_until_that_is_gone() {
    let lab = standard();
    let service = usual("host-datagrams", 72, [&lab.node1.a, &lab.node1.b, &lab.node2.a, &lab.node2.b]);
    let published = lab.publish(&service).unwrap();
    let node = &lab.node1.host;
    for family in Family::BOTH {
        let to = service.at(family, who(Protocol::Udp));
        let socket = node.inside(|| unconnected(family)).unwrap();
        let first = ask_from(&socket, to).unwrap().pod;
        for _ in 0..20 {
            assert_eq!(ask_from(&socket, to).unwrap().pod, first);
        }
        let others =
            [&lab.node1.a, &lab.node1.b, &lab.node2.a, &lab.node2.b].into_iter().filter(|pod| pod.name != first);
        let fewer = usual("host-datagrams", 72, others);
        lab.change(&published, &fewer).unwrap();
        assert_ne!(ask_from(&socket, to).unwrap().pod, first);
        lab.change(&published, &service).unwrap();
    }
}

#[test]
fn a_connected_udp_socket_is_told_when_its_backend_is_gone_and_others_are_left_alone() {
    let mut lab = standard();
    let service = usual("host-udp", 73, [&lab.node2.a]);
    let published = lab.publish(&service).unwrap();
    let (node, pod) = (lab.node1.host.clone(), lab.node2.a.clone());
    for (family, is_restarted) in [(Family::V4, false), (Family::V6, false), (Family::V4, true)] {
        let to = service.at(family, who(Protocol::Udp));
        let connect = |to: SocketAddr| node.inside(|| client::connect_udp(to)).unwrap();
        let mut sockets = vec![connect(to)];
        if family == Family::V4 {
            sockets.push(connect(mapped(to)));
        }
        let direct = connect(pod.at(family, WHO));
        for socket in sockets.iter().chain([&direct]) {
            assert_eq!(client::ask_again(socket).unwrap().pod, "pod2a");
        }
        let moved = usual("host-udp", 73, [&lab.node2.b]);
        if is_restarted {
            // The backend goes while no agent runs on the node.
            lab.agents_mut()[0].kill();
            assert_eq!(client::ask_again(&sockets[0]).unwrap().pod, "pod2a", "without an agent");
            lab.manifests().change(&published, &moved).unwrap();
            let agent = &mut lab.agents_mut()[0];
            agent.start().unwrap();
            agent.wait_until_ready().unwrap();
        }
        lab.change(&published, &moved).unwrap();
        for socket in &sockets {
            eventually(Duration::from_secs(10), || match socket.take_error()? {
                Some(error) if error.kind() == ErrorKind::ConnectionAborted => Ok(()),
                other => anyhow::bail!("{other:?}"),
            })
            .unwrap();
            // It is connected to nobody now.
            assert_eq!(socket.send(b"who").unwrap_err().raw_os_error(), Some(libc::EDESTADDRREQ));
            let again = if to.is_ipv4() && socket.local_addr().unwrap().is_ipv6() { mapped(to) } else { to };
            node.inside(|| socket.connect(again)).unwrap_or_else(|error| panic!("connecting anew to {again}: {error}"));
            assert_eq!(client::ask_again(socket).unwrap().pod, "pod2b", "connected anew");
        }
        assert_eq!(client::ask_again(&direct).unwrap().pod, "pod2a", "a socket that no Service led there");
        lab.change(&published, &service).unwrap();
    }
}

#[test]
fn refused_at_once_where_nobody_serves_and_timed_out_where_it_is_not_for_this_node() {
    let lab = standard();
    let empty = door("host-empty", 74);
    let _empty = lab.publish(&empty).unwrap();
    let inner = Service::new("host-inner", 75).port(Protocol::Tcp, 80, WHO).port(Protocol::Udp, 80, WHO);
    let inner = inner.internal_local().backends([&lab.node1.a]);
    let _inner = lab.publish(&inner).unwrap();
    let fails = |from: &Host, protocol, to: SocketAddr, kind: ErrorKind| {
        let started = Instant::now();
        let error = from.ask(protocol, to).unwrap_err();
        assert_eq!(error.kind(), kind, "{} to {to}, {protocol:?}: {error}", from.name);
        assert!(started.elapsed() < AT_ONCE, "{} to {to}, {protocol:?}: after {:?}", from.name, started.elapsed());
    };
    for family in Family::BOTH {
        for protocol in Protocol::BOTH {
            for to in [empty.at(family, 80), localhost(family, PORT), lab.node1.host.at(family, PORT)] {
                fails(&lab.node1.host, protocol, to, ErrorKind::ConnectionRefused);
            }
            let there = inner.at(family, 80);
            assert_eq!(lab.node1.host.ask(protocol, there).unwrap().pod, "pod1a");
            fails(&lab.node2.host, protocol, there, ErrorKind::TimedOut);
        }
        let sent = lab.node1.host.inside(|| unconnected(family)?.send_to(b"who", empty.at(family, 80)));
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn policies_and_ranges_hold_for_the_node() {
    let lab = standard();
    let (here, there) = (&lab.node1, &lab.node2);
    let address: [IpAddr; 2] = ["203.0.113.88".parse().unwrap(), "fd00:203:113::88".parse().unwrap()];
    let local = door("host-local", 76).external_local().backends([&here.a]);
    let _local = lab.publish(&local).unwrap();
    let node_range =
        Family::BOTH.map(|family| format!("{}/{}", there.host.ip(family), if family == Family::V4 { 32 } else { 128 }));
    let guarded = Service::new("host-guarded", 77).port(Protocol::Tcp, 80, WHO).load_balancer(address, &node_range);
    let _guarded = lab.publish(&guarded.backends([&here.b])).unwrap();
    for (family, address) in Family::BOTH.into_iter().zip(address) {
        // externalTrafficPolicy Local is for clients from elsewhere.
        for protocol in Protocol::BOTH {
            assert_eq!(there.host.ask(protocol, there.host.at(family, PORT)).unwrap().pod, "pod1a");
            assert_eq!(there.host.ask(protocol, localhost(family, PORT)).unwrap().pod, "pod1a");
        }
        let to = SocketAddr::new(address, 80);
        assert_eq!(there.host.ask(Protocol::Tcp, to).unwrap().pod, "pod1b", "a node in the ranges");
        assert_eq!(here.host.ask(Protocol::Tcp, to).unwrap_err().kind(), ErrorKind::TimedOut, "one that is not");
    }
}

#[test]
fn a_pod_s_own_loopback_and_what_is_no_frontend_stay_as_they_are() {
    let mut lab = standard();
    let door = door("host-not", 78).backends([&lab.node2.a]);
    let _published = lab.publish(&door).unwrap();
    let (pod, node, client) = (lab.node1.b.clone(), lab.node1.host.clone(), lab.client.clone());
    lab.serve(&client, Protocol::Tcp, PORT).unwrap();
    lab.serve(&client, Protocol::Udp, PORT).unwrap();
    for family in Family::BOTH {
        assert_eq!(pod.ask(Protocol::Tcp, localhost(family, PORT)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        for protocol in Protocol::BOTH {
            assert_eq!(node.ask(protocol, client.at(family, PORT)).unwrap().pod, "client");
            assert_eq!(node.ask(protocol, lab.node1.a.at(family, WHO)).unwrap().pod, "pod1a");
        }
    }
}

#[test]
fn sockets_are_served_without_an_agent_and_through_its_restart() {
    let mut lab = standard();
    let service = usual("host-lasting", 79, [&lab.node2.a]);
    let _published = lab.publish(&service).unwrap();
    let node = lab.node1.host.clone();
    let open = node.inside(|| client::connect(service.at(Family::V4, STREAM))).unwrap();
    lab.agents_mut()[0].kill();
    let ask = |when: &str| {
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                let answer = node.ask(protocol, service.at(family, who(protocol)));
                assert_eq!(answer.unwrap_or_else(|error| panic!("{when}: {error}")).pod, "pod2a", "{when}");
            }
        }
    };
    ask("without an agent");
    lab.agents_mut()[0].start().unwrap();
    while lab.agents_mut()[0].look_json("frontends").is_err() {}
    ask("while it starts");
    lab.agents_mut()[0].wait_until_ready().unwrap();
    ask("after it has started");
    assert!(lab.agents()[0].log().contains("socket hooks replaced"), "the pinned links are adopted");
    assert_eq!(open.peer_addr().unwrap(), service.at(Family::V4, STREAM), "what was stored with a socket stays");
}

#[test]
fn with_all_pods_are_translated_at_their_sockets_and_with_off_nobody_is() {
    let with = |mode: &str| {
        let arguments = vec!["--socket-lb".into(), mode.into()];
        let agents = AgentOptions { arguments, ..AgentOptions::default() };
        alone(|| Lab::new(Options { agents: Some(agents), ..Options::default() }))
    };
    let lab = with("all");
    let service = door("host-modes", 80).backends([&lab.node2.a]);
    let published = lab.publish(&service).unwrap();
    for family in Family::BOTH {
        let to = service.at(family, 80);
        // A pod whose processes are in the node's control group, as on a real node.
        let pod = Host { cgroup: lab.node1.host.cgroup.clone(), ..lab.node1.b.clone() };
        let answer = pod.ask(Protocol::Tcp, to).unwrap();
        assert_eq!((answer.pod.as_str(), answer.seen), ("pod2a", pod.ip(family)));
        let peer: TcpStream = pod.inside(|| client::connect(to)).unwrap();
        assert_eq!(peer.peer_addr().unwrap(), to);
        assert_eq!(pod.ask(Protocol::Udp, to).unwrap().pod, "pod2a");
        assert_eq!(pod.ask(Protocol::Tcp, lab.node1.host.at(family, PORT)).unwrap().pod, "pod2a");
        assert_eq!(pod.ask(Protocol::Tcp, localhost(family, PORT)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(lab.node1.host.ask(Protocol::Tcp, to).unwrap().pod, "pod2a");
    }
    // What was translated at the socket made no flow: UDP and NodePort went by the packets.
    let flows = lab.agents()[0].look("flows").unwrap();
    let tcp =
        flows.lines().filter(|line| line.contains(&service.at(Family::V4, 80).to_string()) && line.contains("TCP"));
    assert_eq!(tcp.count(), 0, "{flows}");
    drop(published);
    drop(lab);
    let lab = with("off");
    let _published = lab.publish(&service).unwrap();
    let knock = || client::knock(service.at(Family::V4, 80), AT_ONCE);
    assert!(lab.node1.host.inside(knock).is_err());
    assert_eq!(lab.node1.b.ask(Protocol::Tcp, service.at(Family::V4, 80)).unwrap().pod, "pod2a");
}
