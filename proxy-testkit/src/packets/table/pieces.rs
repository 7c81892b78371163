//! Packets in fragments: only the first has ports.

use std::net::SocketAddr;
use std::rc::Rc;

use super::super::Via::{self, Pod, Uplink};
use super::super::world::{Places, REMOTE_NODE_PORT};
use super::super::{Expect, Hook, Scenario, Step, fragments, icmp_error, udp};
use super::{at, becomes, step};

/// Makes a packet from one address to another.
type Data = Rc<dyn Fn(SocketAddr, SocketAddr) -> Vec<u8>>;

const ID: u16 = 0x1234;
const CUT: usize = 48;

/// Three fragments of a packet at a hook, and those that they become.
fn pieces(what: [&'static str; 3], hook: Hook, via: Via, sent: &[u8], seen: &[u8]) -> Vec<Step> {
    let pairs = fragments(sent, ID, CUT).into_iter().zip(fragments(seen, ID, CUT));
    what.into_iter().zip(pairs).map(|(what, (sent, seen))| step(what, hook, via, sent, becomes(seen))).collect()
}

/// The same where both depend on the masquerade port that was seen last.
fn with_port(
    what: &'static str,
    hook: Hook,
    number: usize,
    sent: impl Fn(u16) -> Vec<u8> + 'static,
    seen: impl Fn(u16) -> Vec<u8> + 'static,
) -> Step {
    let piece = move |packet: Vec<u8>| fragments(&packet, ID, CUT).into_iter().nth(number).unwrap_or_default();
    let (of_sent, of_seen) = (piece, piece);
    Step {
        what,
        hook,
        via: Uplink,
        packet: Box::new(move |port| of_sent(sent(port))),
        expect: Expect::Becomes(Box::new(move |port| of_seen(seen(port)))),
    }
}

/// UDP in fragments, by every way that addresses change.
pub(super) fn fragmented(family: &str, p: &Places) -> Vec<Scenario> {
    let (pod, remote, vip) = (at(p.pod, 40_000), at(p.remote, 8080), at(p.to_remote, 80));
    let (client, node_port) = (at(p.outside, 50_000), at(p.node, REMOTE_NODE_PORT));
    let node = p.node;
    let text: Vec<u8> = (0..130).collect();
    let data: Data = Rc::new(move |from, to| udp(from, to, &text));
    let name = |what: &str| format!("{family} UDP in fragments: {what}");

    let mut there_and_back = pieces(
        ["the first has ports", "the second has none", "nor has the last"],
        Hook::Ingress,
        Pod,
        &data(pod, vip),
        &data(pod, remote),
    );
    there_and_back.extend(pieces(
        ["the reply's first", "second", "and last"],
        Hook::Egress,
        Pod,
        &data(remote, pod),
        &data(vip, pod),
    ));
    let last = |from, to| fragments(&data(from, to), ID, CUT).pop().unwrap_or_default();
    there_and_back.push(step("the last once more", Hook::Ingress, Pod, last(pod, vip), becomes(last(pod, remote))));
    let other = |number: usize| move |packet: &[u8]| fragments(packet, ID + 1, CUT).swap_remove(number);
    let (sent, seen) = (data(pod, vip), data(pod, remote));
    let kept = "one of another packet is kept until its first comes";
    there_and_back.push(step(kept, Hook::Ingress, Pod, other(1)(&sent), Expect::Drop));
    there_and_back.push(step("here it is", Hook::Ingress, Pod, other(0)(&sent), becomes(other(0)(&seen))));
    there_and_back.push(step("the other comes again", Hook::Ingress, Pod, other(1)(&sent), becomes(other(1)(&seen))));
    let stranger = at(p.neighbour, 40_000);
    there_and_back.push(step("one of another pod is kept, too", Hook::Ingress, Pod, last(stranger, vip), Expect::Drop));
    let early_reply = fragments(&data(remote, stranger), ID, CUT).swap_remove(1);
    let passes = "a reply's that comes before its first passes";
    there_and_back.push(step(passes, Hook::Egress, Pod, early_reply, Expect::Untouched));

    let mut masqueraded = pieces(
        ["from outside", "without ports", "the last"],
        Hook::Ingress,
        Uplink,
        &data(client, node_port),
        &data(client, remote),
    );
    masqueraded.push(Step {
        what: "leaves from the node, whole as the stack may have put it together",
        hook: Hook::Egress,
        via: Uplink,
        packet: {
            let data = data.clone();
            Box::new(move |_| data(client, remote))
        },
        expect: {
            let data = data.clone();
            Expect::Masqueraded(Box::new(move |port| data(at(node, port), remote)))
        },
    });
    let leaves = |what, number, data: Data| {
        let sent = data.clone();
        with_port(what, Hook::Egress, number, move |_| sent(client, remote), move |port| data(at(node, port), remote))
    };
    let answers = |what, number, data: Data| {
        let seen = data.clone();
        with_port(what, Hook::Ingress, number, move |port| data(remote, at(node, port)), move |_| seen(remote, client))
    };
    masqueraded.push(leaves("or in fragments, the first", 0, data.clone()));
    masqueraded.push(leaves("and the last", 2, data.clone()));
    masqueraded.push(answers("the answer's first is the client's", 0, data.clone()));
    masqueraded.push(answers("and so is its last", 2, data.clone()));

    let first = |from, to| fragments(&data(from, to), ID, CUT).into_iter().next().unwrap_or_default();
    let quote = if p.pod.is_ipv4() { 8 } else { 16 };
    let errors = vec![
        step("a first fragment opens the flow", Hook::Ingress, Pod, first(pod, vip), becomes(first(pod, remote))),
        step(
            "an error that quotes it is the client's",
            Hook::Egress,
            Pod,
            icmp_error(p.router, p.pod, false, &first(pod, remote), quote),
            becomes(icmp_error(p.router, p.pod, false, &first(pod, vip), quote)),
        ),
        step(
            "one that quotes the last is left alone",
            Hook::Egress,
            Pod,
            icmp_error(p.router, p.pod, false, &last(pod, remote), quote),
            Expect::Untouched,
        ),
    ];

    let (external, near) = (at(p.guarded, 80), at(p.neighbour, 8080));
    let (sent, seen) = (data(client, external), data(client, near));
    let balanced = vec![
        step("the last waits for the first", Hook::Ingress, Uplink, last(client, external), Expect::Drop),
        step("that is here", Hook::Ingress, Uplink, first(client, external), becomes(first(client, near))),
        step("the last comes again", Hook::Ingress, Uplink, last(client, external), becomes(last(client, near))),
        step("and one that came in order", Hook::Ingress, Uplink, other(0)(&sent), becomes(other(0)(&seen))),
    ];

    let nobody = at(p.to_nobody, 80);
    let refused = first(pod, nobody);
    let (bystander, own) = (at(p.neighbour, 8080), at(p.node, 9_999));
    let refusals = vec![
        step("the first is dropped: of too little a part is known", Hook::Ingress, Pod, refused, Expect::Drop),
        step("the last waits for it", Hook::Ingress, Pod, last(pod, nobody), Expect::Drop),
        step("between pods: the last, before the first", Hook::Ingress, Pod, last(pod, bystander), Expect::Untouched),
        step("the first", Hook::Ingress, Pod, first(pod, bystander), Expect::Untouched),
        step("and the last", Hook::Ingress, Pod, last(pod, bystander), Expect::Untouched),
        step("to the node itself: the last, before the first", Hook::Ingress, Pod, last(pod, own), Expect::Drop),
        step("the first", Hook::Ingress, Pod, first(pod, own), Expect::Untouched),
        step("and the last", Hook::Ingress, Pod, last(pod, own), Expect::Untouched),
    ];
    vec![
        Scenario { name: name("pod to ClusterIP and back"), steps: there_and_back },
        Scenario { name: name("outside to NodePort, masqueraded, and back"), steps: masqueraded },
        Scenario { name: name("outside to a load balancer's address"), steps: balanced },
        Scenario { name: name("errors about them"), steps: errors },
        Scenario { name: name("nobody serves, and bystanders"), steps: refusals },
    ]
}
