//! Packets that are not as long as they say: the kernel would drop them, so they begin no flow and get no answer.

use super::super::Via::Pod;
use super::super::build::{reset_of, with_checksums};
use super::super::world::Places;
use super::super::{Expect, Hook, Scenario, Step, put, tcp, udp};
use super::{at, becomes, step};

/// A lie in every length field.
pub(super) fn lies(family: &str, p: &Places) -> Scenario {
    let is_v4 = p.pod.is_ipv4();
    let header = if is_v4 { 20 } else { 40 };
    let mut steps = Vec::new();
    for vip in [at(p.to_remote, 80), at(p.to_nobody, 80)] {
        let pod = at(p.pod, 40_000);
        let packets = || [tcp(pod, vip, "S", b"data"), udp(pod, vip, b"data")];
        let mut lie = |what, change: &dyn Fn(&mut Vec<u8>)| {
            for mut packet in packets() {
                change(&mut packet);
                if is_v4 {
                    put(&mut packet, 10, 0);
                    packet = with_checksums(packet, 0, 10);
                }
                steps.push(step(what, Hook::Ingress, Pod, packet, Expect::Untouched));
            }
        };
        let (at, base) = if is_v4 { (2, 20) } else { (4, 0) };
        lie("the IP length goes beyond the packet", &|packet| put(packet, at, 200));
        lie("the IP length ends in the transport header", &|packet| put(packet, at, base + 7));
        if is_v4 {
            lie("the IP length ends in the IP header", &|packet| put(packet, 2, 19));
            for first in [0x40, 0x44] {
                lie("no such IP header", &|packet| packet[0] = first);
            }
        }
        for (number, what) in [(0, "TCP"), (1, "UDP")] {
            let mut lie = |what, change: &dyn Fn(&mut Vec<u8>)| {
                let mut packet = packets()[number].clone();
                change(&mut packet);
                steps.push(step(what, Hook::Ingress, Pod, packet, Expect::Untouched));
            };
            if what == "TCP" {
                lie("a TCP header without room for its own fields", &|packet| packet[header + 12] = 0x40);
                lie("a TCP header that goes beyond the packet", &|packet| packet[header + 12] = 0xf0);
            } else {
                lie("a UDP length below its header's", &|packet| put(packet, header + 4, 7));
                lie("a UDP length of none", &|packet| put(packet, header + 4, 0));
                lie("a UDP length beyond the packet", &|packet| put(packet, header + 4, 13));
            }
        }
    }
    Scenario { name: format!("{family} lengths that are not so"), steps }
}

/// Bytes behind the packet's end, as a short Ethernet frame has them.
pub(super) fn padded(p: &Places) -> Vec<Scenario> {
    let (pod, remote, vip, nobody) = (at(p.pod, 40_000), at(p.remote, 8080), at(p.to_remote, 80), at(p.to_nobody, 80));
    let with_padding = |mut packet: Vec<u8>| {
        packet.extend([0; 6]);
        packet
    };
    let syn = |to| tcp(pod, to, "S", b"");
    let steps: Vec<Step> = vec![
        step("to a backend", Hook::Ingress, Pod, with_padding(syn(vip)), becomes(with_padding(syn(remote)))),
        step(
            "refused: it is no data that the answer acknowledges",
            Hook::Ingress,
            Pod,
            with_padding(syn(nobody)),
            Expect::Reply(reset_of(pod, nobody, "S", b"", &[])),
        ),
    ];
    vec![Scenario { name: "IPv4 in a padded Ethernet frame".to_owned(), steps }]
}
