//! The table itself.

use std::net::{IpAddr, SocketAddr};

use super::Via::{self, Pod, Uplink};

mod errors;
mod extensions;
mod forward;
mod lies;
mod onward;
mod pieces;
mod ports;

use super::build::{abort_of, fragments, reset_of};
use super::world::{Places, REMOTE_NODE_PORT};
use super::{
    Expect, Flags, Hook, Scenario, Step, echo, icmp_error, redirect, sctp, tcp, tcp_with_options, udp,
    udp_without_checksum,
};

/// Every scenario, in both families where it has a meaning in both.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (family, places) in [("IPv4", Places::v4()), ("IPv6", Places::v6())] {
        for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
            all.extend(forward::forwarded(family, &places, proto));
            all.push(ports::past(family, &places, proto));
        }
        all.extend(refused(family, &places));
        all.extend(untouched(family, &places));
        all.extend(errors::errors(family, &places));
        all.extend(pieces::fragmented(family, &places));
        all.push(lies::lies(family, &places));
        all.push(ports::clash(family, &places));
        all.push(ports::past_what_was(family, &places));
        all.push(ports::reuse(family, &places));
        all.push(ports::reuse_masqueraded(family, &places));
    }
    all.extend(only_v4(&Places::v4()));
    all.extend(lies::padded(&Places::v4()));
    all.extend(extensions::extended(&Places::v6()));
    all
}

/// What happens at an uplink by which packets are sent on.
pub fn onward() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (family, places) in [("IPv4", Places::v4()), ("IPv6", Places::v6())] {
        for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
            all.extend(onward::sent_on(family, &places, proto));
        }
        all.push(onward::fragmented(family, &places));
    }
    all
}

/// The protocols that behave alike.
#[derive(Clone, Copy)]
enum Proto {
    Tcp,
    Udp,
    Sctp,
}

impl Proto {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    fn packet(self, from: SocketAddr, to: SocketAddr, flags: Flags) -> Vec<u8> {
        match self {
            Self::Tcp => tcp(from, to, flags, if flags.contains('P') { b"some data" } else { b"" }),
            Self::Udp => udp(from, to, b"question"),
            Self::Sctp => sctp(from, to, flags),
        }
    }
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// A step whose packet does not depend on a masquerade port.
fn step(what: &'static str, hook: Hook, via: Via, packet: Vec<u8>, expect: Expect) -> Step {
    Step { what, hook, via, packet: Box::new(move |_| packet.clone()), expect }
}

fn becomes(packet: Vec<u8>) -> Expect {
    Expect::Becomes(Box::new(move |_| packet.clone()))
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
        via: Uplink,
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
        via: Uplink,
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
    let (client, unknown, node_port) = (at(p.outside, 50_000), at(p.to_remote, 81), at(p.to_remote, REMOTE_NODE_PORT));
    let nobody = match p.pod {
        IpAddr::V4(_) => at(IpAddr::from([224, 0, 0, 1]), 1),
        IpAddr::V6(_) => at(IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]), 1),
    };
    let abort = |what, flags| {
        let answer = Expect::Reply(abort_of(pod, vip, flags));
        step(what, Hook::Ingress, Pod, sctp(pod, vip, flags), answer)
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
            name: format!("{family} SCTP without endpoints: aborted"),
            steps: vec![
                abort("an INIT", "S"),
                abort("DATA of an association nobody knows", "PA"),
                step("an ABORT is not answered", Hook::Ingress, Pod, sctp(pod, vip, "R"), Expect::Drop),
            ],
        },
        Scenario {
            name: format!("{family} a port that the Service has not, an address that no Service has"),
            steps: vec![
                step("TCP", Hook::Ingress, Pod, tcp(pod, unknown, "S", b""), {
                    Expect::Reply(reset_of(pod, unknown, "S", b"", &[]))
                }),
                step("SCTP", Hook::Ingress, Pod, sctp(pod, unknown, "S"), Expect::Reply(abort_of(pod, unknown, "S"))),
                step("UDP", Hook::Ingress, Uplink, udp(client, unknown, b"question"), {
                    Expect::Reply(icmp_error(p.to_remote, p.outside, true, &udp(client, unknown, b"question"), 8))
                }),
                step("a RST is not answered", Hook::Ingress, Pod, tcp(pod, unknown, "R", b""), Expect::Drop),
                step("a NodePort's number is no port of it", Hook::Ingress, Pod, tcp(pod, node_port, "S", b""), {
                    Expect::Reply(reset_of(pod, node_port, "S", b"", &[]))
                }),
                step("no address", Hook::Ingress, Pod, tcp(pod, at(p.unallocated, 80), "S", b""), Expect::Drop),
                step("from outside", Hook::Ingress, Uplink, udp(client, at(p.unallocated, 80), b"x"), Expect::Drop),
                step(
                    "what comes from nobody is not answered",
                    Hook::Ingress,
                    Uplink,
                    tcp(nobody, unknown, "S", b""),
                    Expect::Drop,
                ),
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
    steps.extend(through("another port of a load balancer's address", tcp(pod, at(p.sticky, 81), "S", b"")));
    steps.extend(through("the ClusterIP of a Service that is left to others", tcp(pod, at(p.of_others, 80), "S", b"")));
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
    steps.extend(through("a ping to a Service's address", echo(p.pod, p.to_remote)));
    let last = fragments(&udp(pod, at(p.remote, 80), &[7; 100]), 11, 64).pop().unwrap_or_default();
    steps.extend(through("a fragment without ports, of a packet whose first was not seen", last));
    vec![Scenario { name: format!("{family} what is not ours passes as it came"), steps }]
}

/// A packet of which only `bytes` of the transport header are left; its IP header goes on to promise more.
fn truncated(mut packet: Vec<u8>, bytes: usize) -> Vec<u8> {
    let header = if packet.first().is_some_and(|byte| byte >> 4 == 4) { 20 } else { 40 };
    packet.truncate(header + bytes);
    packet
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
