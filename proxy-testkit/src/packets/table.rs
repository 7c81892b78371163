//! The table itself.

use std::net::{IpAddr, SocketAddr};

use proxy_common::maps::DeviceRole::{self, Pod, Uplink};

use super::build::reset_of;
use super::world::{LOCAL_NODE_PORT, Places, REMOTE_NODE_PORT};
use super::{
    Expect, Flags, Hook, Scenario, Step, icmp_error, redirect, tcp, tcp_with_options, udp, udp_without_checksum,
};

/// Every scenario, in both families where it has a meaning in both.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (family, places) in [("IPv4", Places::v4()), ("IPv6", Places::v6())] {
        for proto in [Proto::Tcp, Proto::Udp] {
            all.extend(forwarded(family, &places, proto));
        }
        all.extend(refused(family, &places));
        all.extend(untouched(family, &places));
        all.extend(errors(family, &places));
        all.push(clash(family, &places));
        all.push(reuse(family, &places));
    }
    all.extend(only_v4(&Places::v4()));
    all
}

/// The protocols that behave alike.
#[derive(Clone, Copy)]
enum Proto {
    Tcp,
    Udp,
}

impl Proto {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    fn packet(self, from: SocketAddr, to: SocketAddr, flags: Flags) -> Vec<u8> {
        match self {
            Self::Tcp => tcp(from, to, flags, if flags.contains('P') { b"some data" } else { b"" }),
            Self::Udp => udp(from, to, b"question"),
        }
    }
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// A step whose packet does not depend on a masquerade port.
fn step(what: &'static str, hook: Hook, role: DeviceRole, packet: Vec<u8>, expect: Expect) -> Step {
    Step { what, hook, role, packet: Box::new(move |_| packet.clone()), expect }
}

fn becomes(packet: Vec<u8>) -> Expect {
    Expect::Becomes(Box::new(move |_| packet.clone()))
}

/// Requests and replies of the ways that a Service is reached.
fn forwarded(family: &str, p: &Places, proto: Proto) -> Vec<Scenario> {
    let way = |what: &str| format!("{family} {} {what}", proto.name());
    let (pod, remote, neighbour) = (at(p.pod, 40_000), at(p.remote, 8080), at(p.neighbour, 8080));
    let vip = at(p.to_remote, 80);
    let local = at(p.to_neighbour, 80);
    let client = at(p.outside, 50_000);
    let node_port = at(p.node, REMOTE_NODE_PORT);
    let local_node_port = at(p.node, LOCAL_NODE_PORT);
    vec![
        Scenario {
            name: way("pod to ClusterIP, backend on another node"),
            steps: vec![
                step(
                    "the first packet",
                    Hook::Ingress,
                    Pod,
                    proto.packet(pod, vip, "S"),
                    becomes(proto.packet(pod, remote, "S")),
                ),
                step(
                    "leaves with its own source",
                    Hook::Egress,
                    Uplink,
                    proto.packet(pod, remote, "S"),
                    Expect::Untouched,
                ),
                step(
                    "the answer comes in as it is",
                    Hook::Ingress,
                    Uplink,
                    proto.packet(remote, pod, "SA"),
                    Expect::Untouched,
                ),
                step(
                    "and reaches the pod from the Service",
                    Hook::Egress,
                    Pod,
                    proto.packet(remote, pod, "SA"),
                    becomes(proto.packet(vip, pod, "SA")),
                ),
                step(
                    "data",
                    Hook::Ingress,
                    Pod,
                    proto.packet(pod, vip, "PA"),
                    becomes(proto.packet(pod, remote, "PA")),
                ),
                step(
                    "the end",
                    Hook::Ingress,
                    Pod,
                    proto.packet(pod, vip, "FA"),
                    becomes(proto.packet(pod, remote, "FA")),
                ),
                step(
                    "its answer",
                    Hook::Egress,
                    Pod,
                    proto.packet(remote, pod, "FA"),
                    becomes(proto.packet(vip, pod, "FA")),
                ),
                step(
                    "the last word",
                    Hook::Ingress,
                    Pod,
                    proto.packet(pod, vip, "A"),
                    becomes(proto.packet(pod, remote, "A")),
                ),
            ],
        },
        Scenario {
            name: way("outside to NodePort, backend on another node: masqueraded"),
            steps: vec![
                step(
                    "the first packet",
                    Hook::Ingress,
                    Uplink,
                    proto.packet(client, node_port, "S"),
                    becomes(proto.packet(client, remote, "S")),
                ),
                masqueraded("leaves from the node", proto, p, client, remote, "S"),
                reply_to_masquerade("the answer to the node is the client's", proto, p, remote, client, "SA"),
                step(
                    "and leaves from the NodePort",
                    Hook::Egress,
                    Uplink,
                    proto.packet(remote, client, "SA"),
                    becomes(proto.packet(node_port, client, "SA")),
                ),
                step(
                    "data",
                    Hook::Ingress,
                    Uplink,
                    proto.packet(client, node_port, "PA"),
                    becomes(proto.packet(client, remote, "PA")),
                ),
                masqueraded("has the same port again", proto, p, client, remote, "PA"),
            ],
        },
        Scenario {
            name: way("outside to NodePort, backend on this node: the client keeps its address"),
            steps: vec![
                step(
                    "the first packet",
                    Hook::Ingress,
                    Uplink,
                    proto.packet(client, local_node_port, "S"),
                    becomes(proto.packet(client, neighbour, "S")),
                ),
                step(
                    "reaches the pod from the client",
                    Hook::Egress,
                    Pod,
                    proto.packet(client, neighbour, "S"),
                    Expect::Untouched,
                ),
                step("the answer", Hook::Ingress, Pod, proto.packet(neighbour, client, "SA"), Expect::Untouched),
                step(
                    "leaves from the NodePort",
                    Hook::Egress,
                    Uplink,
                    proto.packet(neighbour, client, "SA"),
                    becomes(proto.packet(local_node_port, client, "SA")),
                ),
            ],
        },
        Scenario {
            name: way("outside to ClusterIP, backend on another node: masqueraded"),
            steps: vec![
                step(
                    "the first packet",
                    Hook::Ingress,
                    Uplink,
                    proto.packet(client, vip, "S"),
                    becomes(proto.packet(client, remote, "S")),
                ),
                masqueraded("leaves from the node", proto, p, client, remote, "S"),
            ],
        },
        Scenario {
            name: way("outside to ClusterIP, backend on this node: masqueraded"),
            steps: vec![
                step(
                    "the first packet",
                    Hook::Ingress,
                    Uplink,
                    proto.packet(client, local, "S"),
                    becomes(proto.packet(client, neighbour, "S")),
                ),
                Step { role: Pod, ..masqueraded("reaches the pod from the node", proto, p, client, neighbour, "S") },
            ],
        },
        policies(way("policies of a load balancer's address"), p, proto),
        hairpin(way("a pod to itself: masqueraded to the node"), p, proto),
    ]
}

/// externalTrafficPolicy Local with the only endpoint elsewhere, and source ranges.
fn policies(name: String, p: &Places, proto: Proto) -> Scenario {
    let (pod, remote, neighbour) = (at(p.pod, 40_000), at(p.remote, 8080), at(p.neighbour, 8080));
    let (client, router) = (at(p.outside, 50_000), at(p.router, 50_000));
    let (local_only, guarded) = (at(p.local_only, 80), at(p.guarded, 80));
    let sends = |what, role, from, to, expect| step(what, Hook::Ingress, role, proto.packet(from, to, "S"), expect);
    Scenario {
        name,
        steps: vec![
            sends("Local, nobody here: an outside client is dropped", Uplink, client, local_only, Expect::Drop),
            sends("but a pod goes anywhere", Pod, pod, local_only, becomes(proto.packet(pod, remote, "S"))),
            step("as itself", Hook::Egress, Uplink, proto.packet(pod, remote, "S"), Expect::Untouched),
            sends("in the range", Uplink, client, guarded, becomes(proto.packet(client, neighbour, "S"))),
            sends("not in the range", Uplink, router, guarded, Expect::Drop),
            sends("a pod, which is not in it either", Pod, pod, guarded, Expect::Drop),
        ],
    }
}

fn hairpin(name: String, p: &Places, proto: Proto) -> Scenario {
    let (pod, own, vip) = (at(p.pod, 40_000), at(p.pod, 8080), at(p.to_self, 80));
    Scenario {
        name,
        steps: vec![
            step(
                "the first packet",
                Hook::Ingress,
                Pod,
                proto.packet(pod, vip, "S"),
                becomes(proto.packet(pod, own, "S")),
            ),
            Step { role: Pod, ..masqueraded("comes back from the node", proto, p, pod, own, "S") },
            Step { role: Pod, ..reply_to_masquerade("the answer to the node is the pod's", proto, p, own, pod, "SA") },
            step(
                "and reaches it from the Service",
                Hook::Egress,
                Pod,
                proto.packet(own, pod, "SA"),
                becomes(proto.packet(vip, pod, "SA")),
            ),
        ],
    }
}

/// A request leaves with the node's address instead of the client's.
fn masqueraded(
    what: &'static str,
    proto: Proto,
    p: &Places,
    client: SocketAddr,
    backend: SocketAddr,
    flags: Flags,
) -> Step {
    let node = p.node;
    Step {
        what,
        hook: Hook::Egress,
        role: Uplink,
        packet: Box::new(move |_| proto.packet(client, backend, flags)),
        expect: Expect::Masqueraded(Box::new(move |port| proto.packet(at(node, port), backend, flags))),
    }
}

/// The answer to it comes in.
fn reply_to_masquerade(
    what: &'static str,
    proto: Proto,
    p: &Places,
    backend: SocketAddr,
    client: SocketAddr,
    flags: Flags,
) -> Step {
    let node = p.node;
    Step {
        what,
        hook: Hook::Ingress,
        role: Uplink,
        packet: Box::new(move |port| proto.packet(backend, at(node, port), flags)),
        expect: Expect::Becomes(Box::new(move |_| proto.packet(backend, client, flags))),
    }
}

/// Nobody serves.
fn refused(family: &str, p: &Places) -> Vec<Scenario> {
    let (pod, vip) = (at(p.pod, 40_000), at(p.to_nobody, 80));
    let reset = |what, flags: Flags, payload: &[u8]| {
        step(
            what,
            Hook::Ingress,
            Pod,
            tcp(pod, vip, flags, payload),
            Expect::Reply(reset_of(pod, vip, flags, payload, &[])),
        )
    };
    let datagram = udp(pod, vip, b"a question of some length");
    let answer = icmp_error(p.to_nobody, p.pod, true, &datagram, 8);
    vec![
        Scenario {
            name: format!("{family} TCP without endpoints: reset"),
            steps: vec![
                reset("a SYN", "S", b""),
                reset("a SYN with data", "S", b"fast open"),
                reset("an ACK of a connection nobody knows", "A", b""),
                reset("data of one, of odd length", "PA", b"seventeen bytes.."),
                reset("a FIN", "FA", b""),
                step("a RST is not answered", Hook::Ingress, Pod, tcp(pod, vip, "R", b""), Expect::Drop),
            ],
        },
        Scenario {
            name: format!("{family} UDP without endpoints: port unreachable"),
            steps: vec![step("a datagram", Hook::Ingress, Pod, datagram, Expect::Reply(answer))],
        },
    ]
}

/// What is for no frontend.
fn untouched(family: &str, p: &Places) -> Vec<Scenario> {
    let pod = at(p.pod, 40_000);
    let through = |what, packet: Vec<u8>| {
        [
            step(what, Hook::Ingress, Pod, packet.clone(), Expect::Untouched),
            step(what, Hook::Egress, Uplink, packet, Expect::Untouched),
        ]
    };
    let mut steps = Vec::new();
    steps.extend(through("pod to pod", tcp(pod, at(p.neighbour, 8080), "S", b"")));
    steps.extend(through("another port of a Service's address", tcp(pod, at(p.to_remote, 81), "S", b"")));
    steps.extend(through("a NodePort on a pod's address", tcp(pod, at(p.neighbour, REMOTE_NODE_PORT), "S", b"")));
    steps.extend(through("to a port of the masquerade range", udp(at(p.remote, 53), at(p.node, 2_000), b"x")));
    steps.extend(through(
        "a packet cut in the transport header",
        truncated(tcp(pod, at(p.to_remote, 80), "S", b""), 14),
    ));
    steps.extend(through("a packet cut in the ports", truncated(udp(pod, at(p.to_remote, 80), b"x"), 3)));
    steps.extend(through("an error about a packet of no flow", {
        let about = tcp(pod, at(p.remote, 8080), "S", b"");
        icmp_error(p.router, p.pod, false, &about, 8)
    }));
    vec![Scenario { name: format!("{family} what is not ours passes as it came"), steps }]
}

/// A packet of which only `bytes` of the transport header are left; its IP header goes on to promise more.
fn truncated(mut packet: Vec<u8>, bytes: usize) -> Vec<u8> {
    let header = if packet.first().is_some_and(|byte| byte >> 4 == 4) { 20 } else { 40 };
    packet.truncate(header + bytes);
    packet
}

/// ICMP errors about packets of a flow.
fn errors(family: &str, p: &Places) -> Vec<Scenario> {
    let places = *p;
    let (pod, remote, vip) = (at(p.pod, 40_000), at(p.remote, 8080), at(p.to_remote, 80));
    let client = at(p.outside, 50_000);
    let node_port = at(p.node, REMOTE_NODE_PORT);
    let opened = |proto: Proto| {
        step("a flow begins", Hook::Ingress, Pod, proto.packet(pod, vip, "S"), becomes(proto.packet(pod, remote, "S")))
    };
    let mut all = Vec::new();
    for proto in [Proto::Tcp, Proto::Udp] {
        // 8 bytes of the quoted transport header, and all of it: with and without a TCP checksum in it.
        for length in [8, 20] {
            let name = |what: &str| format!("{family} ICMP about {} ({length} bytes quoted): {what}", proto.name());
            let request = proto.packet(pod, remote, "S");
            let seen = proto.packet(pod, vip, "S");
            let reply = proto.packet(vip, pod, "SA");
            let sent = proto.packet(remote, pod, "SA");
            all.push(Scenario {
                name: name("a router's, to the client"),
                steps: vec![
                    opened(proto),
                    step(
                        "quotes what the client sent",
                        Hook::Egress,
                        Pod,
                        icmp_error(places.router, places.pod, false, &request, length),
                        becomes(icmp_error(places.router, places.pod, false, &seen, length)),
                    ),
                ],
            });
            all.push(Scenario {
                name: name("the backend's, to the client"),
                steps: vec![
                    opened(proto),
                    step(
                        "comes from the Service",
                        Hook::Egress,
                        Pod,
                        icmp_error(places.remote, places.pod, true, &request, length),
                        becomes(icmp_error(places.to_remote, places.pod, true, &seen, length)),
                    ),
                ],
            });
            all.push(Scenario {
                name: name("the client's, to the backend"),
                steps: vec![
                    opened(proto),
                    step(
                        "quotes what the backend sent",
                        Hook::Ingress,
                        Pod,
                        icmp_error(places.pod, places.to_remote, true, &reply, length),
                        becomes(icmp_error(places.pod, places.remote, true, &sent, length)),
                    ),
                ],
            });
            let to_client = proto.packet(client, remote, "S");
            let from_client = proto.packet(client, node_port, "S");
            all.push(Scenario {
                name: name("a router's, about a masqueraded flow"),
                steps: vec![
                    step("a flow begins", Hook::Ingress, Uplink, from_client.clone(), becomes(to_client.clone())),
                    masqueraded("and leaves from the node", proto, p, client, remote, "S"),
                    Step {
                        what: "the error to the node is the client's",
                        hook: Hook::Ingress,
                        role: Uplink,
                        packet: Box::new(move |port| {
                            let about = proto.packet(at(places.node, port), remote, "S");
                            icmp_error(places.router, places.node, false, &about, length)
                        }),
                        expect: becomes(icmp_error(places.router, places.outside, false, &to_client, length)),
                    },
                    step(
                        "and quotes what the client sent",
                        Hook::Egress,
                        Uplink,
                        icmp_error(places.router, places.outside, false, &to_client, length),
                        becomes(icmp_error(places.router, places.outside, false, &from_client, length)),
                    ),
                ],
            });
        }
    }
    all
}

/// One client port through two frontends to one backend.
fn clash(family: &str, p: &Places) -> Scenario {
    let (pod, remote) = (at(p.pod, 40_000), at(p.remote, 8080));
    let (vip, other) = (at(p.to_remote, 80), at(p.also_to_remote, 80));
    let place = p.pod;
    Scenario {
        name: format!("{family} one client port through two Services to one backend"),
        steps: vec![
            step("the first", Hook::Ingress, Pod, tcp(pod, vip, "S", b""), becomes(tcp(pod, remote, "S", b""))),
            Step {
                what: "the second gets another source port",
                hook: Hook::Ingress,
                role: Pod,
                packet: Box::new(move |_| tcp(pod, other, "S", b"")),
                expect: Expect::Masqueraded(Box::new(move |port| tcp(at(place, port), remote, "S", b""))),
            },
            Step {
                what: "its answer comes to the first port, from the second Service",
                hook: Hook::Egress,
                role: Pod,
                packet: Box::new(move |port| tcp(remote, at(place, port), "SA", b"")),
                expect: becomes(tcp(other, pod, "SA", b"")),
            },
            step(
                "and the first's from the first",
                Hook::Egress,
                Pod,
                tcp(remote, pod, "SA", b""),
                becomes(tcp(vip, pod, "SA", b"")),
            ),
        ],
    }
}

/// A client port that is used again while the backend's socket is in TIME_WAIT.
fn reuse(family: &str, p: &Places) -> Scenario {
    let (pod, remote) = (at(p.pod, 40_000), at(p.remote, 8080));
    let (vip, other) = (at(p.to_remote, 80), at(p.also_to_remote, 80));
    let place = p.pod;
    let request =
        |what, flags| step(what, Hook::Ingress, Pod, tcp(pod, vip, flags, b""), becomes(tcp(pod, remote, flags, b"")));
    let reply =
        |what, flags| step(what, Hook::Egress, Pod, tcp(remote, pod, flags, b""), becomes(tcp(vip, pod, flags, b"")));
    Scenario {
        name: format!("{family} a client port is used again soon after its connection closed"),
        steps: vec![
            request("a connection", "S"),
            reply("its answer", "SA"),
            request("the client's end", "FA"),
            reply("the backend's end", "FA"),
            request("through the same Service: as it is", "S"),
            reply("answered", "SA"),
            request("and closed", "FA"),
            reply("by both", "FA"),
            Step {
                what: "through another Service: with another port, for the backend's socket is in TIME_WAIT",
                hook: Hook::Ingress,
                role: Pod,
                packet: Box::new(move |_| tcp(pod, other, "S", b"")),
                expect: Expect::Masqueraded(Box::new(move |port| tcp(at(place, port), remote, "S", b""))),
            },
            request("a reset frees the port at once", "S"),
            reply("by the backend", "RA"),
            step(
                "for the other Service as well",
                Hook::Ingress,
                Pod,
                tcp(at(p.pod, 40_000), other, "FA", b""),
                Expect::Becomes(Box::new(move |port| tcp(at(place, port), remote, "FA", b""))),
            ),
        ],
    }
}

/// What only IPv4 has.
fn only_v4(p: &Places) -> Vec<Scenario> {
    let (pod, remote, vip, nobody) = (at(p.pod, 40_000), at(p.remote, 8080), at(p.to_remote, 80), at(p.to_nobody, 80));
    // Record route with room for two addresses, and one byte of padding.
    let options = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let about = tcp(pod, remote, "S", b"");
    vec![
        Scenario {
            name: "IPv4 options are kept".to_owned(),
            steps: vec![
                step(
                    "a request",
                    Hook::Ingress,
                    Pod,
                    tcp_with_options(pod, vip, "S", b"", &options),
                    becomes(tcp_with_options(pod, remote, "S", b"", &options)),
                ),
                step(
                    "a reply",
                    Hook::Egress,
                    Pod,
                    tcp_with_options(remote, pod, "SA", b"", &options),
                    becomes(tcp_with_options(vip, pod, "SA", b"", &options)),
                ),
            ],
        },
        Scenario {
            name: "IPv4 options of a refused packet become padding".to_owned(),
            steps: vec![step(
                "a SYN",
                Hook::Ingress,
                Pod,
                tcp_with_options(pod, nobody, "S", b"", &options),
                Expect::Reply(reset_of(pod, nobody, "S", b"", &[0; 12])),
            )],
        },
        Scenario {
            name: "IPv4 UDP without a checksum stays without".to_owned(),
            steps: vec![
                step(
                    "a request",
                    Hook::Ingress,
                    Pod,
                    udp_without_checksum(pod, vip, b"x"),
                    becomes(udp_without_checksum(pod, remote, b"x")),
                ),
                step(
                    "a reply",
                    Hook::Egress,
                    Pod,
                    udp_without_checksum(remote, pod, b"x"),
                    becomes(udp_without_checksum(vip, pod, b"x")),
                ),
            ],
        },
        Scenario {
            name: "an ICMP redirect is never translated".to_owned(),
            steps: vec![
                step("a flow begins", Hook::Ingress, Pod, tcp(pod, vip, "S", b""), becomes(about.clone())),
                step("a redirect about it", Hook::Egress, Pod, redirect(p.router, p.pod, &about), Expect::Untouched),
            ],
        },
    ]
}
