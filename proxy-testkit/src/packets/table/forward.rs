//! Requests and replies of the ways that a Service is reached.

use super::super::Via::{Pod, Uplink, UplinkByAddress};

use super::super::world::{LOCAL_NODE_PORT, Places, REMOTE_NODE_PORT};
use super::super::{Expect, Hook, Scenario, Step};
use super::{Proto, at, becomes, masqueraded, reply_to_masquerade, step};

/// Requests and replies of the ways that a Service is reached.
pub(super) fn forwarded(family: &str, p: &Places, proto: Proto) -> Vec<Scenario> {
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
                Step { via: Pod, ..masqueraded("reaches the pod from the node", proto, p, client, neighbour, "S") },
            ],
        },
        known_by_address(way("pods of this node known by their addresses, and the node by its own"), p, proto),
        affinity(way("affinity holds while the backend can be used"), p, proto),
        policies(way("policies of a load balancer's address"), p, proto),
        hairpin(way("a pod to itself: masqueraded to the node"), p, proto),
    ]
}

/// externalTrafficPolicy Local with the only endpoint elsewhere, and source ranges.
fn policies(name: String, p: &Places, proto: Proto) -> Scenario {
    let (pod, remote, neighbour) = (at(p.pod, 40_000), at(p.remote, 8080), at(p.neighbour, 8080));
    let (client, router) = (at(p.outside, 50_000), at(p.router, 50_000));
    let (local_only, guarded) = (at(p.local_only, 80), at(p.guarded, 80));
    let sends = |what, via, from, to, expect| step(what, Hook::Ingress, via, proto.packet(from, to, "S"), expect);
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

/// detectLocalMode ClusterCIDR; and a client with the node's own address.
fn known_by_address(name: String, p: &Places, proto: Proto) -> Scenario {
    let (pod, remote) = (at(p.pod, 40_000), at(p.remote, 8080));
    let (client, node) = (at(p.outside, 50_000), at(p.node, 50_001));
    let (vip, local_only) = (at(p.to_remote, 80), at(p.local_only, 80));
    let sends = |what, via, from, to, expect| step(what, Hook::Ingress, via, proto.packet(from, to, "S"), expect);
    let arrives = |from| becomes(proto.packet(from, remote, "S"));
    Scenario {
        name,
        steps: vec![
            sends("a pod to a ClusterIP", UplinkByAddress, pod, vip, arrives(pod)),
            step("keeps its address", Hook::Egress, Uplink, proto.packet(pod, remote, "S"), Expect::Untouched),
            sends("a client from elsewhere", UplinkByAddress, client, vip, arrives(client)),
            masqueraded("does not", proto, p, client, remote, "S"),
            sends("Local, nobody here: a pod goes anywhere", UplinkByAddress, at(p.pod, 40_001), local_only, {
                arrives(at(p.pod, 40_001))
            }),
            sends("others are dropped", UplinkByAddress, client, local_only, Expect::Drop),
            sends(
                "a pod where the device does not tell: likewise",
                Uplink,
                at(p.pod, 40_002),
                local_only,
                Expect::Drop,
            ),
            sends("the node itself goes anywhere", Uplink, node, local_only, arrives(node)),
            masqueraded("under the address that it leaves with", proto, p, node, remote, "S"),
        ],
    }
}

/// Whom a client is sent to that the Service remembers. Any other than the neighbour is known by affinity alone.
fn affinity(name: String, p: &Places, proto: Proto) -> Scenario {
    let sticky = at(p.sticky, 80);
    let sends = |what, via, from, to| {
        step(what, Hook::Ingress, via, proto.packet(from, sticky, "S"), becomes(proto.packet(from, to, "S")))
    };
    let (remote, neighbour) = (at(p.remote, 8080), at(p.neighbour, 8080));
    Scenario {
        name,
        steps: vec![
            sends("a client that came before", Pod, at(p.pod, 40_000), remote),
            sends("and comes again, by another port", Pod, at(p.pod, 40_001), remote),
            sends("too long ago", Pod, at(p.router, 40_000), neighbour),
            sends("to a backend that is gone, and whose id has another", Pod, at(p.outside, 40_000), neighbour),
            sends("to a backend that gets no new clients", Pod, at(p.remote, 40_000), neighbour),
            sends("to a backend elsewhere, and the policy is Local", Uplink, at(p.stranger, 40_000), neighbour),
            sends("which is remembered from now on, also where it is not", Pod, at(p.stranger, 40_001), neighbour),
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
            Step { via: Pod, ..masqueraded("comes back from the node", proto, p, pod, own, "S") },
            Step { via: Pod, ..reply_to_masquerade("the answer to the node is the pod's", proto, p, own, pod, "SA") },
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
