//! Client ports that meet at one backend.

use super::super::Via::{Pod, Uplink};
use super::super::world::{Places, REMOTE_NODE_PORT};
use super::super::{Expect, Hook, Scenario, Step, tcp};
use super::{Proto, at, becomes, step};

/// One client port through two frontends to one backend.
pub(super) fn clash(family: &str, p: &Places) -> Scenario {
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
                via: Pod,
                packet: Box::new(move |_| tcp(pod, other, "S", b"")),
                expect: Expect::Masqueraded(Box::new(move |port| tcp(at(place, port), remote, "S", b""))),
            },
            Step {
                what: "its answer comes to the first port, from the second Service",
                hook: Hook::Egress,
                via: Pod,
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

/// One client port that talks to a backend through its Service and past it.
pub(super) fn past(family: &str, p: &Places, proto: Proto) -> Scenario {
    let (pod, remote, vip) = (at(p.pod, 40_000), at(p.remote, 8080), at(p.to_remote, 80));
    let (other, elsewhere) = (at(p.pod, 40_001), at(p.neighbour, 8080));
    let place = p.pod;
    let moved = |what, flags| Step {
        what,
        hook: Hook::Ingress,
        via: Pod,
        packet: Box::new(move |_| proto.packet(pod, remote, flags)),
        expect: Expect::Becomes(Box::new(move |port| proto.packet(at(place, port), remote, flags))),
    };
    let request = |what, from, to, flags, expect| step(what, Hook::Ingress, Pod, proto.packet(from, to, flags), expect);
    Scenario {
        name: format!("{family} {} of one client port through a Service and past it", proto.name()),
        steps: vec![
            request("through it", pod, vip, "S", becomes(proto.packet(pod, remote, "S"))),
            Step {
                what: "past it, with another source port",
                hook: Hook::Ingress,
                via: Pod,
                packet: Box::new(move |_| proto.packet(pod, remote, "S")),
                expect: Expect::Masqueraded(Box::new(move |port| proto.packet(at(place, port), remote, "S"))),
            },
            Step {
                what: "the answer to that comes to the first port, from the backend",
                hook: Hook::Egress,
                via: Pod,
                packet: Box::new(move |port| proto.packet(remote, at(place, port), "SA")),
                expect: becomes(proto.packet(remote, pod, "SA")),
            },
            step(
                "and the answer to the first from the Service",
                Hook::Egress,
                Pod,
                proto.packet(remote, pod, "SA"),
                becomes(proto.packet(vip, pod, "SA")),
            ),
            moved("it goes on past it", "A"),
            request("and through it", pod, vip, "A", becomes(proto.packet(pod, remote, "A"))),
            request("to another backend's address as it is", pod, elsewhere, "S", Expect::Untouched),
            request("and so from another port", other, remote, "S", Expect::Untouched),
        ],
    }
}

/// A backend that is talked to past its Service, from the port of a connection through it that is over.
pub(super) fn past_what_was(family: &str, p: &Places) -> Scenario {
    let (pod, remote, vip) = (at(p.pod, 40_000), at(p.remote, 8080), at(p.to_remote, 80));
    let request = |what, to, flags, expect| step(what, Hook::Ingress, Pod, tcp(pod, to, flags, b""), expect);
    let as_it_is = |flags| becomes(tcp(pod, remote, flags, b""));
    Scenario {
        name: format!("{family} a client port of a connection that was reset is used past the Service"),
        steps: vec![
            request("through it", vip, "S", as_it_is("S")),
            step("refused", Hook::Egress, Pod, tcp(remote, pod, "RA", b""), becomes(tcp(vip, pod, "RA", b""))),
            request("past it", remote, "S", as_it_is("S")),
            step("answered", Hook::Egress, Pod, tcp(remote, pod, "SA", b""), becomes(tcp(remote, pod, "SA", b""))),
            request("it goes on", remote, "A", as_it_is("A")),
        ],
    }
}

/// A client port that is used again while the backend's socket is in TIME_WAIT.
pub(super) fn reuse(family: &str, p: &Places) -> Scenario {
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
                via: Pod,
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

/// A masqueraded client's port that is used again while the backend's socket is in TIME_WAIT.
pub(super) fn reuse_masqueraded(family: &str, p: &Places) -> Scenario {
    let (client, node_port, remote) = (at(p.outside, 50_000), at(p.node, REMOTE_NODE_PORT), at(p.remote, 8080));
    let node = p.node;
    let request = |what, flags| {
        step(what, Hook::Ingress, Uplink, tcp(client, node_port, flags, b""), becomes(tcp(client, remote, flags, b"")))
    };
    let reply = |what, flags| {
        step(what, Hook::Egress, Uplink, tcp(remote, client, flags, b""), becomes(tcp(node_port, client, flags, b"")))
    };
    let leaves = |what, expect| Step {
        what,
        hook: Hook::Egress,
        via: Uplink,
        packet: Box::new(move |_| tcp(client, remote, "S", b"")),
        expect,
    };
    let same = || Expect::Becomes(Box::new(move |port| tcp(at(node, port), remote, "S", b"")));
    Scenario {
        name: format!("{family} a masqueraded client's port is used again soon after its connection closed"),
        steps: vec![
            request("a connection", "S"),
            leaves(
                "which leaves from a port of the node",
                Expect::Masqueraded(Box::new(move |port| tcp(at(node, port), remote, "S", b""))),
            ),
            reply("its answer", "SA"),
            request("the client's end", "FA"),
            reply("the backend's end", "FA"),
            request("the same client port once more", "S"),
            leaves("from the same port of the node, which the backend remembers as this client's", same()),
            reply("refused", "RA"),
            request("once more", "S"),
            leaves("likewise", same()),
        ],
    }
}
