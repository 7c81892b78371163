//! Properties of the packet core, on the host.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::net::SocketAddr;

use proptest::prelude::*;
use proxy_common::datapath::Verdict;
use proxy_testkit::packets::Via::Pod;
use proxy_testkit::packets::{Hook, HostEnv, HostPacket, World, fuzz, icmp_error, tcp, udp, with_checksums};

/// A pod of the node, and the ClusterIP and the backend of a Service of the world, in one family.
fn places(is_v4: bool) -> (&'static str, SocketAddr, SocketAddr) {
    if is_v4 {
        ("10.244.1.5", "10.96.0.1:80".parse().unwrap(), "10.244.2.7:8080".parse().unwrap())
    } else {
        ("fd00:2441::beef:5", "[fd00:1096::beef:1]:80".parse().unwrap(), "[fd00:2442::beef:7]:8080".parse().unwrap())
    }
}

fn packet(is_tcp: bool, from: SocketAddr, to: SocketAddr, flags: &'static str, payload: &[u8]) -> Vec<u8> {
    if is_tcp { tcp(from, to, flags, payload) } else { udp(from, to, payload) }
}

/// Offsets of the transport header and of its checksum in it.
const fn checksum_at(is_v4: bool, is_tcp: bool) -> (usize, usize) {
    (if is_v4 { 20 } else { 40 }, if is_tcp { 16 } else { 6 })
}

/// The packet as a sender makes it that leaves the checksum to the device: the sum of the pseudo header.
fn left_to_device(mut bytes: Vec<u8>, is_v4: bool, is_tcp: bool) -> HostPacket {
    let (start, offset) = checksum_at(is_v4, is_tcp);
    let addresses = if is_v4 { bytes[12..20].to_vec() } else { bytes[8..40].to_vec() };
    let length = u16::try_from(bytes.len() - start).unwrap();
    let mut sum = u32::from(length) + if is_tcp { 6 } else { 17 };
    for pair in addresses.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[start + offset..start + offset + 2].copy_from_slice(&u16::try_from(sum).unwrap().to_be_bytes());
    HostPacket { bytes, is_partial: true }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Whatever comes in, a packet that passes is as it came, and nothing panics.
    #[test]
    fn random_bytes_are_never_altered(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        first in prop_oneof![Just(0x45_u8), Just(0x4f), Just(0x60), any::<u8>()],
        proto in prop_oneof![Just(1_u8), Just(6), Just(17), Just(58), any::<u8>()],
        is_ingress in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        let at = if first >> 4 == 6 { 6 } else { 9 };
        if let Some(byte) = bytes.get_mut(at) {
            *byte = proto;
        }
        let mut env = HostEnv::new(&World::new());
        let mut packet = HostPacket::new(bytes.clone());
        let hook = if is_ingress { Hook::Ingress } else { Hook::Egress };
        let verdict = env.run(hook, &mut packet);
        prop_assert_eq!(verdict, Verdict::Pass);
        prop_assert_eq!(packet.bytes, bytes);
    }

    /// A packet to a Service, with any byte changed and cut anywhere, either passes as it came or becomes something.
    /// Nothing panics, and no flow is left that could take a bystander's packet.
    #[test]
    fn damaged_packets_do_no_harm(
        is_v4 in any::<bool>(),
        is_tcp in any::<bool>(),
        damage in proptest::collection::vec((0_usize..90, any::<u8>()), 0..4),
        length in 0_usize..90,
    ) {
        let (pod, vip, backend) = places(is_v4);
        let from = SocketAddr::new(pod.parse().unwrap(), 40_000);
        let mut bytes = packet(is_tcp, from, vip, "S", b"payload of some bytes");
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(length.max(1));
        let mut env = HostEnv::new(&World::new());
        let mut damaged = HostPacket::new(bytes.clone());
        if env.run(Hook::Ingress, &mut damaged) == Verdict::Pass {
            prop_assert_eq!(damaged.bytes, bytes);
        }
        let bystander = packet(is_tcp, SocketAddr::new(pod.parse().unwrap(), 41_000), backend, "S", b"x");
        let mut passing = HostPacket::new(bystander.clone());
        prop_assert_eq!(env.run(Hook::Ingress, &mut passing), Verdict::Pass);
        prop_assert_eq!(env.run(Hook::Egress, &mut passing), Verdict::Pass);
        prop_assert_eq!(passing.bytes, bystander);
    }

    /// A request arrives as if it had been sent to the backend, and the reply as if the Service had sent it: byte for
    /// byte, with complete checksums and with those that are left to the device.
    #[test]
    fn a_reply_undoes_its_request(
        is_v4 in any::<bool>(),
        is_tcp in any::<bool>(),
        is_partial in any::<bool>(),
        port in 1_u16..,
        payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let (pod, vip, backend) = places(is_v4);
        let from = SocketAddr::new(pod.parse().unwrap(), port);
        let (start, offset) = checksum_at(is_v4, is_tcp);
        let sent = |bytes: Vec<u8>| {
            if is_partial { left_to_device(bytes, is_v4, is_tcp) } else { HostPacket::new(bytes) }
        };
        let arrived = |packet: HostPacket| {
            if packet.is_partial { with_checksums(packet.bytes, start, offset) } else { packet.bytes }
        };
        let mut env = HostEnv::new(&World::new());
        env.set_device(Pod);
        let mut request = sent(packet(is_tcp, from, vip, "S", &payload));
        prop_assert_eq!(env.run(Hook::Ingress, &mut request), Verdict::Opened);
        prop_assert_eq!(zero_is_minus_zero(arrived(request), start, offset), packet(is_tcp, from, backend, "S", &payload));
        let mut reply = sent(packet(is_tcp, backend, from, "SA", &payload));
        prop_assert_eq!(env.run(Hook::Egress, &mut reply), Verdict::Translated);
        prop_assert_eq!(zero_is_minus_zero(arrived(reply), start, offset), packet(is_tcp, vip, from, "SA", &payload));
    }

    /// Nothing is looked at in a TCP packet that only its two ends can judge: what is outside of a window (a late packet, a
    /// reset in answer to one) goes to where all of the connection goes.
    #[test]
    fn windows_and_sequence_numbers_do_not_matter(
        numbers in any::<[u8; 8]>(),
        window in any::<[u8; 2]>(),
        flags in prop_oneof![Just("A"), Just("PA"), Just("FA"), Just("R"), Just("RA")],
    ) {
        let (pod, vip, backend) = places(true);
        let from = SocketAddr::new(pod.parse().unwrap(), 40_000);
        let mut env = HostEnv::new(&World::new());
        env.set_device(Pod);
        env.run(Hook::Ingress, &mut HostPacket::new(tcp(from, vip, "S", b"")));
        env.run(Hook::Egress, &mut HostPacket::new(tcp(backend, from, "SA", b"")));
        let with_numbers = |mut bytes: Vec<u8>| {
            bytes[24..32].copy_from_slice(&numbers);
            bytes[34..36].copy_from_slice(&window);
            bytes
        };
        // The checksum is of other numbers, and changes with the addresses.
        let but_for_checksum = |mut bytes: Vec<u8>| {
            bytes[36..38].fill(0);
            bytes
        };
        for (hook, packet, expected) in [
            (Hook::Ingress, tcp(from, vip, flags, b"x"), tcp(from, backend, flags, b"x")),
            (Hook::Egress, tcp(backend, from, flags, b"x"), tcp(vip, from, flags, b"x")),
        ] {
            let mut packet = HostPacket::new(with_numbers(packet));
            prop_assert_eq!(env.run(hook, &mut packet), Verdict::Translated);
            prop_assert_eq!(but_for_checksum(packet.bytes), but_for_checksum(with_numbers(expected)));
        }
    }

    /// What the fuzzer looks for, with input that it has not chosen.
    #[test]
    fn any_sequence_of_packets_keeps_the_properties(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz::run(&data);
    }

    /// An ICMP error about a request, however much it quotes, arrives as if it were about the client's own packet.
    #[test]
    fn an_error_undoes_its_request(
        is_v4 in any::<bool>(),
        is_tcp in any::<bool>(),
        is_from_backend in any::<bool>(),
        quoted in 8_usize..60,
        payload in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        // Half a checksum cannot be corrected.
        prop_assume!(!(is_tcp && quoted == 17));
        let (pod, vip, backend) = places(is_v4);
        let from = SocketAddr::new(pod.parse().unwrap(), 40_000);
        let router = if is_v4 { "192.0.2.1" } else { "2001:db8:2::1" }.parse().unwrap();
        let mut env = HostEnv::new(&World::new());
        let mut request = HostPacket::new(packet(is_tcp, from, vip, "S", &payload));
        let original = request.bytes.clone();
        prop_assert_eq!(env.run(Hook::Ingress, &mut request), Verdict::Opened);
        let (sender, seen_sender) = if is_from_backend { (backend.ip(), vip.ip()) } else { (router, router) };
        let mut error = HostPacket::new(icmp_error(sender, from.ip(), is_from_backend, &request.bytes, quoted));
        prop_assert_eq!(env.run(Hook::Egress, &mut error), Verdict::Translated);
        prop_assert_eq!(error.bytes, icmp_error(seen_sender, from.ip(), is_from_backend, &original, quoted));
    }
}

/// What the fuzzer has found once: each file in `tests/fuzz` is an input that broke a property.
#[test]
fn what_the_fuzzer_found_stays_mended() {
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz")).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().is_some_and(|name| name == ".gitkeep") {
            continue;
        }
        println!("{}", path.display());
        fuzz::run(&std::fs::read(path).unwrap());
    }
}

/// In ones' complement arithmetic 0 and 0xffff are one number. What a checksum comes out as depends on the way it was
/// computed; a receiver takes both. UDP never sends 0.
fn zero_is_minus_zero(mut bytes: Vec<u8>, start: usize, offset: usize) -> Vec<u8> {
    let place = start + offset..start + offset + 2;
    if bytes[place.clone()] == [0, 0] && offset == 6 {
        bytes[place].fill(0xff);
    }
    bytes
}

/// A UDP flow whose backend has left the Service ends at once; TCP goes on to it until it closes.
#[test]
fn udp_leaves_a_lost_backend_and_tcp_does_not() {
    let (pod, vip, backend) = places(true);
    let from = SocketAddr::new(pod.parse().unwrap(), 40_000);
    for is_tcp in [false, true] {
        let mut env = HostEnv::new(&World::new());
        let open = packet(is_tcp, from, vip, "S", b"");
        assert_eq!(env.run(Hook::Ingress, &mut HostPacket::new(open.clone())), Verdict::Opened);
        env.remove_backends_v4();
        let mut more = HostPacket::new(packet(is_tcp, from, vip, "PA", b"more"));
        let verdict = env.run(Hook::Ingress, &mut more);
        if is_tcp {
            assert_eq!(verdict, Verdict::Translated);
            assert_eq!(more.bytes, packet(is_tcp, from, backend, "PA", b"more"));
            // A new connection from the same port finds nobody.
            assert_eq!(env.run(Hook::Ingress, &mut HostPacket::new(open)), Verdict::AnswerNobody);
        } else {
            assert_eq!(verdict, Verdict::AnswerNobody);
        }
    }
}

/// Packets, bytes, flows and refusals are counted on the Service port, each once.
#[test]
fn every_packet_is_counted_once() {
    let (pod, vip, backend) = places(true);
    let from = SocketAddr::new(pod.parse().unwrap(), 40_000);
    let mut env = HostEnv::new(&World::new());
    for flags in ["S", "A", "PA"] {
        env.run(Hook::Ingress, &mut HostPacket::new(tcp(from, vip, flags, b"")));
    }
    env.run(Hook::Egress, &mut HostPacket::new(tcp(backend, from, "SA", b"12")));
    let counted = env.counters(1);
    assert_eq!((counted.flows, counted.packets, counted.bytes), (1, 3, 120));
    assert_eq!((counted.reply_packets, counted.reply_bytes, counted.refused), (1, 42, 0));
}
