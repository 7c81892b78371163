//! Packets that are sent on at the uplink where they came in, and those that are not.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::super::Via::{Pod, Uplink};
use super::super::world::{LOCAL_NODE_PORT, Places, REMOTE_NODE_PORT};
use super::super::{Expect, Flags, Hook, Scenario, Step, fragments, icmp_error, udp};
use super::{Proto, at, becomes, masqueraded, step};

/// A packet with another number of hops left.
fn with_hops(mut packet: Vec<u8>, hops: u8) -> Vec<u8> {
    let is_v4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
    if let Some(place) = packet.get_mut(if is_v4 { 8 } else { 7 }) {
        *place = hops;
    }
    if is_v4 {
        let header = usize::from(packet.first().copied().unwrap_or(0) & 0xf) * 4;
        super::super::put(&mut packet, 10, 0);
        let (ip, rest) = packet.split_at(header);
        packet = [super::super::with_checksums(ip.to_vec(), 0, 10), rest.to_vec()].concat();
    }
    packet
}

/// As a router hands it on.
fn one_hop_less(packet: Vec<u8>) -> Vec<u8> {
    let hops = packet.get(if packet.first().is_some_and(|byte| byte >> 4 == 4) { 8 } else { 7 }).copied().unwrap_or(0);
    with_hops(packet, hops.wrapping_sub(1))
}

fn request(what: &'static str, packet: Vec<u8>, expect: Expect) -> Step {
    step(what, Hook::Onward, Uplink, packet, expect)
}

/// A reply that comes in for the address that its flow was masqueraded to.
fn reply(what: &'static str, proto: Proto, from: SocketAddr, to: IpAddr, flags: Flags, expect: Expect) -> Step {
    Step {
        what,
        hook: Hook::Onward,
        via: Uplink,
        packet: Box::new(move |port| proto.packet(from, at(to, port), flags)),
        expect,
    }
}

fn sent_on_by(p: &Places, proto: Proto, backend: SocketAddr, flags: Flags) -> Box<dyn Fn(u16) -> Vec<u8>> {
    let node = p.node;
    Box::new(move |port| one_hop_less(proto.packet(at(node, port), backend, flags)))
}

fn answered(proto: Proto, frontend: SocketAddr, client: SocketAddr, flags: Flags) -> Expect {
    Expect::SentOn(Box::new(move |_| one_hop_less(proto.packet(frontend, client, flags))))
}

/// Flows from outside, by all ways.
pub(super) fn sent_on(family: &str, p: &Places, proto: Proto) -> Vec<Scenario> {
    let name = |what: &str| format!("{family} {} at an uplink: {what}", proto.name());
    let places = *p;
    let (client, remote, neighbour) = (at(p.outside, 50_000), at(p.remote, 8080), at(p.neighbour, 8080));
    let (node_port, local_port) = (at(p.node, REMOTE_NODE_PORT), at(p.node, LOCAL_NODE_PORT));
    let by = |flags| sent_on_by(&places, proto, remote, flags);
    let opens = || {
        request(
            "the first packet leaves at once, from the node",
            proto.packet(client, node_port, "S"),
            Expect::SentOnMasqueraded(by("S")),
        )
    };
    let answer =
        |what, flags| reply(what, proto, remote, places.node, flags, answered(proto, node_port, client, flags));
    let last_hop = with_hops(proto.packet(client, node_port, "PA"), 1);
    let ends_here = with_hops(proto.packet(client, remote, "PA"), 1);
    // What of SCTP is quoted beyond its ports and tag is a CRC, which is left as it is.
    let quote = 8;
    vec![
        Scenario {
            name: name("a client of a backend on another node"),
            steps: vec![
                opens(),
                answer("the answer reaches the client, from where it asked", "SA"),
                request("data", proto.packet(client, node_port, "PA"), Expect::SentOn(by("PA"))),
                request("at its last hop it is the stack's, which answers with an error", last_hop, becomes(ends_here)),
                answer("the end", "FA"),
                request("and the client's", proto.packet(client, node_port, "FA"), Expect::SentOn(by("FA"))),
                answer("the last word", "A"),
            ],
        },
        Scenario {
            name: name("one whose first packet has come to its last hop"),
            steps: vec![
                request(
                    "it is the stack's, which answers with an error",
                    with_hops(proto.packet(client, node_port, "S"), 1),
                    becomes(with_hops(proto.packet(client, remote, "S"), 1)),
                ),
                opens(),
                answer("the answer reaches the client, from where it asked", "SA"),
            ],
        },
        Scenario {
            name: name("errors about it"),
            steps: vec![
                opens(),
                Step {
                    what: "a router's, to the client",
                    hook: Hook::Onward,
                    via: Uplink,
                    packet: Box::new(move |port| {
                        let sent = proto.packet(at(places.node, port), remote, "S");
                        icmp_error(places.router, places.node, false, &sent, quote)
                    }),
                    expect: Expect::SentOn(Box::new(move |_| {
                        let seen = proto.packet(client, node_port, "S");
                        one_hop_less(icmp_error(places.router, places.outside, false, &seen, quote))
                    })),
                },
                Step {
                    what: "the client's, to the backend",
                    hook: Hook::Onward,
                    via: Uplink,
                    packet: Box::new(move |_| {
                        let sent = proto.packet(node_port, client, "SA");
                        icmp_error(places.outside, places.node, true, &sent, quote)
                    }),
                    expect: Expect::SentOn(Box::new(move |port| {
                        let seen = proto.packet(remote, at(places.node, port), "SA");
                        one_hop_less(icmp_error(places.node, places.remote, true, &seen, quote))
                    })),
                },
            ],
        },
        Scenario {
            name: name("a neighbour that has yet to be asked for"),
            steps: vec![
                request(
                    "the first packet",
                    proto.packet(at(p.stranger, 50_000), node_port, "S"),
                    Expect::SentOnMasqueraded(by("S")),
                ),
                reply(
                    "the answer is left to tc, and sent on all the same",
                    proto,
                    remote,
                    p.node,
                    "SA",
                    answered(proto, node_port, at(p.stranger, 50_000), "SA"),
                ),
            ],
        },
        Scenario {
            name: name("a backend on this node"),
            steps: vec![
                request(
                    "goes up to the stack",
                    proto.packet(client, local_port, "S"),
                    becomes(proto.packet(client, neighbour, "S")),
                ),
                step(
                    "whence the answer comes",
                    Hook::Egress,
                    Uplink,
                    proto.packet(neighbour, client, "SA"),
                    becomes(proto.packet(local_port, client, "SA")),
                ),
                request("data", proto.packet(client, local_port, "PA"), becomes(proto.packet(client, neighbour, "PA"))),
            ],
        },
        Scenario {
            name: name("a flow that began by the stack stays with it"),
            steps: vec![
                step(
                    "a client by a device that sends nothing on",
                    Hook::Ingress,
                    Uplink,
                    proto.packet(client, node_port, "S"),
                    becomes(proto.packet(client, remote, "S")),
                ),
                masqueraded("is masqueraded where it leaves", proto, p, client, remote, "S"),
                reply(
                    "the answer goes up to the stack, from the backend",
                    proto,
                    remote,
                    p.node,
                    "SA",
                    becomes(proto.packet(remote, client, "SA")),
                ),
                request(
                    "and so does what the client says then",
                    proto.packet(client, node_port, "PA"),
                    becomes(proto.packet(client, remote, "PA")),
                ),
            ],
        },
        Scenario {
            name: name("its port past the Service"),
            steps: vec![
                opens(),
                request(
                    "goes up to the stack under another port, whatever the other flow does",
                    proto.packet(client, remote, "S"),
                    Expect::Masqueraded(Box::new(move |port| proto.packet(at(places.outside, port), remote, "S"))),
                ),
                reply("the answer goes up as it is", proto, remote, p.outside, "SA", Expect::Untouched),
                Step {
                    what: "and gets the client's port where it leaves",
                    hook: Hook::Egress,
                    via: Uplink,
                    packet: Box::new(move |port| proto.packet(remote, at(places.outside, port), "SA")),
                    expect: becomes(proto.packet(remote, client, "SA")),
                },
            ],
        },
        Scenario {
            name: name("what is nobody's"),
            steps: vec![
                request("between others", proto.packet(client, at(p.pod, 8080), "S"), Expect::Untouched),
                request("a port of the node", proto.packet(client, at(p.node, 22), "S"), Expect::Untouched),
                request("in the masquerade range", proto.packet(client, at(p.node, 2_000), "SA"), Expect::Untouched),
            ],
        },
        Scenario {
            name: name("a pod's flow that leaves by it"),
            steps: vec![
                step(
                    "a pod asks its node's port",
                    Hook::Ingress,
                    Pod,
                    proto.packet(at(p.pod, 40_000), node_port, "S"),
                    becomes(proto.packet(at(p.pod, 40_000), remote, "S")),
                ),
                step(
                    "answers go up",
                    Hook::Onward,
                    Uplink,
                    proto.packet(remote, at(p.pod, 40_000), "SA"),
                    Expect::Untouched,
                ),
            ],
        },
    ]
}

/// UDP in fragments, both ways.
pub(super) fn fragmented(family: &str, p: &Places) -> Scenario {
    const ID: u16 = 0x4321;
    const CUT: usize = 48;
    let (client, remote, node_port) = (at(p.outside, 50_000), at(p.remote, 8080), at(p.node, REMOTE_NODE_PORT));
    let node = p.node;
    let text: Vec<u8> = (0..130).collect();
    let data: Rc<dyn Fn(SocketAddr, SocketAddr) -> Vec<u8>> = Rc::new(move |from, to| udp(from, to, &text));
    let piece = |number: usize| {
        let data = data.clone();
        move |from, to| fragments(&data(from, to), ID, CUT).into_iter().nth(number).unwrap_or_default()
    };
    let (sent, seen) = (data.clone(), data.clone());
    let mut steps = vec![request(
        "whole",
        sent(client, node_port),
        Expect::SentOnMasqueraded(Box::new(move |port| one_hop_less(seen(at(node, port), remote)))),
    )];
    for (number, what) in ["the first has ports", "the second has none", "nor has the last"].into_iter().enumerate() {
        let (sent, seen) = (piece(number), piece(number));
        let expect = Expect::SentOn(Box::new(move |port| one_hop_less(seen(at(node, port), remote))));
        steps.push(request(what, sent(client, node_port), expect));
    }
    for (number, what) in ["the answer's first", "second", "and last"].into_iter().enumerate() {
        let (sent, seen) = (piece(number), piece(number));
        steps.push(Step {
            what,
            hook: Hook::Onward,
            via: Uplink,
            packet: Box::new(move |port| sent(remote, at(node, port))),
            expect: Expect::SentOn(Box::new(move |_| one_hop_less(seen(node_port, client)))),
        });
    }
    Scenario { name: format!("{family} UDP in fragments at an uplink"), steps }
}
