//! The same traffic with XDP on the nodes' uplinks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proxy_testkit::Lab;
use proxy_testkit::agent::AgentOptions;
use proxy_testkit::client;
use proxy_testkit::lab::{Family, Host, Options, Overlay, Protocol, eventually, make_wire};
use proxy_testkit::server::{ECHO, WHO};
use proxy_testkit::shell;

use crate::common::{alone, usual};
use crate::pmtu::{NARROW, learns_by_udp, streams};
use crate::surface::{metrics, sum};

const PORT: u16 = 30090;
const STREAM_PORT: u16 = 30091;

fn options(mode: &str, overlay: Overlay) -> Options {
    let agent = AgentOptions { arguments: vec![format!("--xdp={mode}")], ..AgentOptions::default() };
    Options { overlay, wired: true, agents: Some(agent), ..Options::default() }
}

fn door(backend: &Host) -> proxy_testkit::manifest::Service {
    usual("door", 110, [])
        .port(Protocol::Tcp, 81, WHO)
        .node_port(PORT)
        .port(Protocol::Udp, 81, WHO)
        .node_port(PORT)
        .port(Protocol::Tcp, 82, ECHO)
        .node_port(STREAM_PORT)
        .backends([backend])
}

/// Who does the work for packets of clients outside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worker {
    /// tc alone, where the pod is on the other node.
    TcAlone,
    /// XDP translates, the stack forwards.
    Xdp,
    /// XDP alone, where the pod is on the other node.
    XdpAlone,
}

fn done_by_xdp(node: &Host, action: &str) -> f64 {
    sum(&metrics(node), "pointsman_xdp_packets_total", &[&format!("\"{action}\"")])
}

/// The client outside asks each node for a pod of each.
fn serves(mode: &str, overlay: Overlay, worker: Worker) {
    let lab = alone(|| Lab::new(options(mode, overlay)));
    let (one, two) = (&lab.node1, &lab.node2);
    for backend in [&one.a, &two.a] {
        let published = lab.publish(&door(backend)).unwrap();
        for family in Family::BOTH {
            for entry in [one, two] {
                let is_local = entry.pods().iter().any(|pod| pod.name == backend.name);
                let way = format!("client by {} to {}, {family:?}", entry.host.name, backend.name);
                let count = || {
                    let xdp = ["sent_on", "up"].map(|action| done_by_xdp(&entry.host, action));
                    (entry.forwarded_packets().unwrap(), xdp)
                };
                let (forwarded, [sent_on, up]) = count();
                for protocol in Protocol::BOTH {
                    let answers = lab.client.ask_many(protocol, entry.host.at(family, PORT), 20);
                    for answer in answers.unwrap_or_else(|error| panic!("{way}, {protocol:?}: {error}")) {
                        let fair = if is_local { lab.client.has(answer.seen) } else { entry.owns(answer.seen) };
                        assert!(fair && answer.pod == backend.name, "{way}, {protocol:?}: {answer:?}");
                    }
                }
                let streamed = lab.client.stream(entry.host.at(family, STREAM_PORT), 4 << 20);
                streamed.unwrap_or_else(|error| panic!("{way}: {error}"));
                let (more_forwarded, [more_sent_on, more_up]) = count();
                let (forwarded, sent_on, up) = (more_forwarded - forwarded, more_sent_on - sent_on, more_up - up);
                println!("{way}: the stack forwarded {forwarded} packets, XDP sent on {sent_on} and handed up {up}");
                match worker {
                    Worker::XdpAlone if !is_local => assert!(forwarded == 0 && sent_on > 100.0, "{way}"),
                    Worker::TcAlone if !is_local => assert!(forwarded == 0 && sent_on + up == 0.0, "{way}"),
                    Worker::TcAlone => assert!(forwarded > 100 && sent_on + up == 0.0, "{way}"),
                    Worker::Xdp | Worker::XdpAlone => {
                        assert!(forwarded > 100 && sent_on == 0.0 && up > 100.0, "{way}");
                    }
                }
            }
        }
        lab.withdraw(published).unwrap();
    }
    assert_eq!(lab.invalid_packets().unwrap(), 0, "conntrack called packets invalid");
}

#[test]
fn what_is_for_another_node_is_sent_on_by_native_xdp() {
    serves("native", Overlay::Routes, Worker::XdpAlone);
}

#[test]
fn what_is_for_another_node_is_sent_on_by_generic_xdp() {
    serves("generic", Overlay::Routes, Worker::XdpAlone);
}

#[test]
fn what_goes_by_an_overlay_is_the_stack_s() {
    serves("native", Overlay::Vxlan, Worker::Xdp);
}

#[test]
fn what_is_for_another_node_is_sent_on_by_tc_alone() {
    serves("tc", Overlay::Routes, Worker::TcAlone);
}

#[test]
fn ends_of_pairs_are_no_hardware() {
    serves("auto", Overlay::Routes, Worker::TcAlone);
}

#[test]
fn a_load_balancers_address_is_served_by_xdp() {
    let lab = alone(|| Lab::new(options("native", Overlay::Routes)));
    let addresses: [IpAddr; 2] = ["203.0.113.60".parse().unwrap(), "fd00:203:113::60".parse().unwrap()];
    let anybody = ["0.0.0.0/0".to_owned(), "::/0".to_owned()];
    let (entry, pod) = (&lab.node1.host, &lab.node2.a);
    let service = usual("balanced", 111, []).port(Protocol::Tcp, 81, WHO).load_balancer(addresses, &anybody);
    let _published = lab.publish(&service.backends([pod])).unwrap();
    for (family, address) in Family::BOTH.into_iter().zip(addresses) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        lab.client.ns.ip(&format!("route add {address}/{length} via {}", entry.ip(family))).unwrap();
        let before = done_by_xdp(entry, "sent_on");
        for answer in lab.client.ask_many(Protocol::Tcp, SocketAddr::new(address, 81), 10).unwrap() {
            assert!(answer.pod == pod.name && entry.has(answer.seen), "{answer:?}");
        }
        assert!(done_by_xdp(entry, "sent_on") > before + 50.0, "{family:?}");
    }
}

/// What cannot be sent on is answered by the stack, and the answers reach the client.
#[test]
fn a_client_learns_of_a_narrow_way_that_xdp_cannot_use() {
    learns_of_a_narrow_way(&options("native", Overlay::Routes));
}

/// Likewise, with segments of TCP that have been put together on the way, and are cut again behind tc.
#[test]
fn a_client_learns_of_a_narrow_way_that_tc_cannot_use() {
    learns_of_a_narrow_way(&Options { wired: false, ..options("tc", Overlay::Routes) });
}

fn learns_of_a_narrow_way(options: &Options) {
    for narrow_one in [1, 2] {
        let lab = alone(|| Lab::new(options.clone()));
        let _published = lab.publish(&door(&lab.node2.a)).unwrap();
        let pod = &lab.node2.a;
        let narrow = if narrow_one == 1 {
            // From node1 on: the error is its stack's. Who forwards IPv4 minds the MTU of a route only where that is locked.
            let [v4, v6] = Family::BOTH.map(|family| lab.node2.host.ip(family));
            format!(
                "route add {}/32 via {v4} dev eth0 mtu lock {NARROW}
                 route add {}/128 via {v6} dev eth0 mtu lock {NARROW}",
                pod.v4, pod.v6
            )
        } else {
            format!("link set cali10 mtu {NARROW}")
        };
        let node = if narrow_one == 1 { &lab.node1 } else { &lab.node2 };
        node.host.ns.ip(&narrow).unwrap();
        for family in Family::BOTH {
            println!("narrow at node{narrow_one}, {family:?}");
            learns_by_udp(&lab.client, family, lab.node1.host.at(family, PORT));
            streams(&lab.client, lab.node1.host.at(family, STREAM_PORT));
        }
        assert_eq!(lab.invalid_packets().unwrap(), 0);
    }
}

/// A rule that leads packets of one client nowhere concerns no other, in whatever order they come.
#[test]
fn ways_may_depend_on_who_sends() {
    for mode in ["native", "tc"] {
        let lab = alone(|| Lab::new(Options { second_addresses: true, ..options(mode, Overlay::Routes) }));
        let (entry, pod) = (&lab.node1.host, &lab.node2.a);
        let stranger = lab.stranger.as_ref().unwrap();
        let _published = lab.publish(&door(pod)).unwrap();
        for family in Family::BOTH {
            let version = if family == Family::V4 { "-4" } else { "-6" };
            let from = stranger.ip(family).to_string();
            for rule in [&["route", "add", "blackhole", "default"][..], &["rule", "add", "from", &from]] {
                let mut command = entry.ns.command("ip");
                shell::run(command.arg(version).args(rule).args(["table", "100"])).unwrap();
            }
            let to = entry.at(family, PORT);
            let refused = || {
                let ask = || {
                    let socket = client::connect_udp(to)?;
                    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
                    client::ask_again(&socket)
                };
                let answer = stranger.inside(ask);
                anyhow::ensure!(answer.is_err(), "{mode}, {family:?}: {answer:?}, against the rule");
                Ok(())
            };
            // Within a second all packets to one pod may go the same way, and the rule may not be known yet.
            eventually(Duration::from_secs(20), refused).unwrap();
            for _ in 0..10 {
                let answers = lab.client.ask_many(Protocol::Tcp, to, 5).unwrap();
                assert!(answers.iter().all(|answer| answer.pod == pod.name), "{mode}, {family:?}: {answers:?}");
                refused().unwrap();
            }
        }
    }
}

/// Connections that last while neighbours are forgotten, and while the agent is replaced by one with another mode.
#[test]
fn connections_outlast_neighbours_and_agents() {
    let mut lab = alone(|| Lab::new(options("native", Overlay::Routes)));
    let pod = lab.node2.a.clone();
    let _published = lab.publish(&door(&pod)).unwrap();
    let entry = lab.node1.host.clone();
    for family in Family::BOTH {
        let before = lab.node1.forwarded_packets().unwrap();
        let to = entry.at(family, STREAM_PORT);
        std::thread::scope(|scope| {
            let client = lab.client.clone();
            let stream = scope.spawn(move || client.stream(to, 64 << 20));
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(30));
                entry.ns.ip("neigh flush dev eth0").unwrap();
            }
            stream.join().unwrap().unwrap_or_else(|error| panic!("{family:?}: {error}"));
        });
        assert_eq!(lab.node1.forwarded_packets().unwrap(), before, "{family:?}: the stack forwarded packets");
    }
    let agent = &mut lab.agents_mut()[0];
    agent.kill();
    agent.start().unwrap();
    agent.wait_until_ready().unwrap();
    let log = agent.log();
    assert!(log.contains("device eth0: XDP program replaced"), "{log}");
    for family in Family::BOTH {
        lab.client.stream(entry.at(family, STREAM_PORT), 1 << 20).unwrap();
    }
    assert_eq!(lab.invalid_packets().unwrap(), 0, "conntrack called packets invalid");
}

#[test]
fn where_an_uplink_has_somebody_elses_program_tc_sends_on() {
    let mut lab = alone(|| Lab::new(options("native", Overlay::Routes)));
    let (entry, pod) = (lab.node1.host.clone(), lab.node2.a.clone());
    let _published = lab.publish(&door(&pod)).unwrap();
    let agent = &mut lab.agents_mut()[0];
    agent.kill();
    agent.clean_up().unwrap();
    let _theirs = make_wire(&entry.ns, "eth0").unwrap();
    agent.start().unwrap();
    agent.wait_until_ready().unwrap();
    let log = agent.log();
    assert!(log.contains("tc does all the work there"), "{log}");
    let before = lab.node1.forwarded_packets().unwrap();
    for family in Family::BOTH {
        let answers = lab.client.ask_many(Protocol::Tcp, entry.at(family, PORT), 20).unwrap();
        assert!(answers.iter().all(|answer| answer.pod == pod.name && entry.has(answer.seen)), "{answers:?}");
        lab.client.stream(entry.at(family, STREAM_PORT), 1 << 20).unwrap();
    }
    assert_eq!(lab.node1.forwarded_packets().unwrap(), before, "the stack forwarded packets");
    assert_eq!(done_by_xdp(&entry, "sent_on"), 0.0);
    assert_eq!(sum(&metrics(&entry), "pointsman_xdp_devices", &[]), 0.0);
}

/// The program that a device has by XDP, as `ip` tells it.
fn has_xdp(node: &Host) -> bool {
    shell::run(node.ns.command("ip").args(["link", "show", "dev", "eth0"])).unwrap().contains("prog/xdp")
}

#[test]
fn nothing_is_left_without_xdp_or_without_an_agent() {
    let mut lab = alone(|| Lab::new(options("native", Overlay::Routes)));
    let nodes = [lab.node1.host.clone(), lab.node2.host.clone()];
    assert!(nodes.iter().all(has_xdp));
    let pod = lab.node2.a.clone();
    let _published = lab.publish(&door(&pod)).unwrap();
    let [off, cleaned] = lab.agents_mut() else { unreachable!("each node has one") };
    off.kill();
    off.become_another(off.binary().to_owned(), vec!["--xdp=off".into()]);
    off.start().unwrap();
    off.wait_until_ready().unwrap();
    assert!(!has_xdp(&nodes[0]), "{}", off.log());
    cleaned.stop().unwrap();
    assert!(has_xdp(&nodes[1]), "packets go on without an agent");
    cleaned.clean_up().unwrap();
    assert!(!has_xdp(&nodes[1]));
    for family in Family::BOTH {
        lab.client.stream(nodes[0].at(family, STREAM_PORT), 1 << 20).unwrap();
    }
    assert_eq!(done_by_xdp(&nodes[0], "sent_on"), 0.0);
}
