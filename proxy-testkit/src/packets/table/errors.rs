//! ICMP errors about packets of a flow.

use super::super::Via::{Pod, Uplink};

use super::super::world::{Places, REMOTE_NODE_PORT};
use super::super::{Hook, Scenario, Step, icmp_error};
use super::{Proto, at, becomes, masqueraded, step};

/// ICMP errors about packets of a flow.
pub(super) fn errors(family: &str, p: &Places) -> Vec<Scenario> {
    let places = *p;
    let (pod, remote, vip) = (at(p.pod, 40_000), at(p.remote, 8080), at(p.to_remote, 80));
    let client = at(p.outside, 50_000);
    let node_port = at(p.node, REMOTE_NODE_PORT);
    let opened = |proto: Proto| {
        step("a flow begins", Hook::Ingress, Pod, proto.packet(pod, vip, "S"), becomes(proto.packet(pod, remote, "S")))
    };
    let mut all = Vec::new();
    for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
        // 8 bytes of the quoted transport header, and all of it: with and without a TCP checksum in it. A quoted CRC of
        // SCTP is left as it is.
        let lengths: &[usize] = if matches!(proto, Proto::Sctp) { &[8] } else { &[8, 20] };
        for &length in lengths {
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
                        via: Uplink,
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
