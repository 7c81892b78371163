//! IPv6 packets with extension headers between the IP header and the transport header.

use super::super::Via::Pod;
use super::super::world::Places;
use super::super::{Expect, Hook, Scenario, icmp_error, redirect_v6, tcp, udp, with_extensions};
use super::{at, becomes, step};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Requests, replies and errors, and what is never translated.
pub(super) fn extended(p: &Places) -> Vec<Scenario> {
    let (pod, remote, vip, nobody) = (at(p.pod, 40_000), at(p.remote, 8080), at(p.to_remote, 80), at(p.to_nobody, 80));
    let mut all = Vec::new();
    for (what, chain) in [
        ("hop-by-hop", &[HOP_BY_HOP][..]),
        ("destination options", &[DESTINATION]),
        ("a routing header at its end", &[ROUTING]),
        ("an atomic fragment", &[FRAGMENT]),
        ("four of them", &[HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION]),
    ] {
        let there = |from, to| with_extensions(&tcp(from, to, "S", b""), chain, 0);
        let back = |from, to| with_extensions(&tcp(from, to, "SA", b""), chain, 0);
        let error = |about: Vec<u8>| icmp_error(p.router, p.pod, false, &about, chain.len() * 8 + 20);
        let short = |about: Vec<u8>| icmp_error(p.router, p.pod, false, &about, chain.len() * 8 + 8);
        all.push(Scenario {
            name: format!("IPv6 extension headers: {what}"),
            steps: vec![
                step("a request", Hook::Ingress, Pod, there(pod, vip), becomes(there(pod, remote))),
                step("its reply", Hook::Egress, Pod, back(remote, pod), becomes(back(vip, pod))),
                step(
                    "an error that quotes the request",
                    Hook::Egress,
                    Pod,
                    error(there(pod, remote)),
                    becomes(error(there(pod, vip))),
                ),
                step("8 bytes of it", Hook::Egress, Pod, short(there(pod, remote)), becomes(short(there(pod, vip)))),
                step(
                    "an error with extension headers itself",
                    Hook::Egress,
                    Pod,
                    with_extensions(&error(there(pod, remote)), &[HOP_BY_HOP], 0),
                    becomes(with_extensions(&error(there(pod, vip)), &[HOP_BY_HOP], 0)),
                ),
            ],
        });
    }
    let untouched = |what, chain: &[u8], left| {
        step(what, Hook::Ingress, Pod, with_extensions(&tcp(pod, vip, "S", b""), chain, left), Expect::Untouched)
    };
    let mut cut = with_extensions(&udp(pod, vip, b""), &[DESTINATION, DESTINATION], 0);
    cut.truncate(49);
    all.push(Scenario {
        name: "IPv6 extension headers that are left alone".to_owned(),
        steps: vec![
            untouched("authenticated: addresses may not change", &[AUTHENTICATION], 0),
            untouched("on its way to another address first", &[ROUTING], 1),
            untouched("too many", &[DESTINATION; 7], 0),
            step("cut", Hook::Ingress, Pod, cut, Expect::Untouched),
        ],
    });
    let question = with_extensions(&udp(pod, nobody, b"question"), &[HOP_BY_HOP], 0);
    all.push(Scenario {
        name: "IPv6 extension headers, and nobody serves".to_owned(),
        steps: vec![
            step(
                "UDP is answered",
                Hook::Ingress,
                Pod,
                question.clone(),
                Expect::Reply(icmp_error(p.to_nobody, p.pod, true, &question, 16)),
            ),
            step(
                "TCP is dropped",
                Hook::Ingress,
                Pod,
                with_extensions(&tcp(pod, nobody, "S", b""), &[HOP_BY_HOP], 0),
                Expect::Drop,
            ),
        ],
    });
    let about = tcp(pod, remote, "S", b"");
    all.push(Scenario {
        name: "an ICMPv6 redirect is never translated".to_owned(),
        steps: vec![
            step("a flow begins", Hook::Ingress, Pod, tcp(pod, vip, "S", b""), becomes(about.clone())),
            step("a redirect about it", Hook::Egress, Pod, redirect_v6(p.router, p.pod, &about), Expect::Untouched),
        ],
    });
    all
}
