//! What the tables promise: equal shares, few moves, the same on every node.
#![expect(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a failed call fails the test; counts are small")]

use std::net::SocketAddr;

use proptest::prelude::*;
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::datapath::Verdict;
use proxy_common::maglev::{Turn, fill, hash, identity, length};
use proxy_common::maps::{Backend, Frontend, FrontendKey, FrontendKind, TCP};
use proxy_testkit::packets::Via::{Pod, Uplink};
use proxy_testkit::packets::{Hook, HostEnv, HostPacket, World, tcp};

/// So many backends, as every node would order them.
fn backends(count: u32, salt: u32) -> Vec<u64> {
    let address =
        |index: u32| Ipv4::new((0x0a00_0000 + salt.wrapping_mul(0x9e37_79b9) % 0xff_0000 + index).to_be_bytes());
    let mut identities: Vec<u64> = (0..count).map(|index| identity(address(index), 8080_u16.to_be_bytes())).collect();
    identities.sort_unstable();
    identities
}

/// The identity in each slot of their table.
fn table(identities: &[u64], slots: u32) -> Vec<u64> {
    let mut turns: Vec<Turn> = identities.iter().copied().map(Turn::new).collect();
    let mut table = vec![0; slots as usize];
    fill(&mut turns, &mut table);
    table.into_iter().map(|index| identities[index as usize]).collect()
}

/// The slots that change hands when each backend goes in turn, over those that had to.
fn moves(identities: &[u64]) -> f64 {
    let slots = length(identities.len()).unwrap();
    let before = table(identities, slots);
    let (mut moved, mut unavoidable) = (0, 0);
    for gone in identities {
        let rest: Vec<u64> = identities.iter().copied().filter(|identity| identity != gone).collect();
        let after = table(&rest, slots);
        moved += before.iter().zip(&after).filter(|(before, after)| before != after).count();
        unavoidable += before.iter().filter(|identity| *identity == gone).count();
    }
    moved as f64 / unavoidable as f64
}

#[test]
fn shares_differ_by_five_percent_at_most() {
    for count in (2..=100).chain([500, 2_621]) {
        let slots = length(count as usize).unwrap();
        let identities = backends(count, count);
        let table = table(&identities, slots);
        let shares = identities.iter().map(|identity| table.iter().filter(|slot| *slot == identity).count());
        let (least, most) = (shares.clone().min().unwrap(), shares.max().unwrap());
        let mean = f64::from(slots) / f64::from(count);
        assert!(most - least <= 1, "{count} backends have {least} to {most} slots");
        assert!(most as f64 <= mean * 1.05 && least as f64 >= mean * 0.95, "{count}: {least} to {most} of {mean}");
    }
}

/// A step's last number of backends is the worst of it. Beyond 80 more slots change hands: the tables would be too long.
#[test]
fn at_most_twice_the_unavoidable_moves() {
    for (count, worlds) in [(2, 40), (3, 40), (5, 40), (10, 40), (11, 5), (28, 5), (29, 1), (80, 1)] {
        let mean = (0..worlds).map(|salt| moves(&backends(count, salt + 1))).sum::<f64>() / f64::from(worlds);
        println!("{count} backends: {mean:.2} times the unavoidable moves");
        assert!(mean <= 2.0, "{count} backends: {mean:.2} times");
    }
}

#[test]
fn a_small_service_costs_a_kilobyte() {
    for (count, slots) in [(0, None), (1, None), (2, Some(251)), (10, Some(251)), (11, Some(2_003)), (2_622, None)] {
        assert_eq!(length(count), slots, "{count} backends");
    }
}

#[test]
fn every_length_is_a_prime() {
    for count in 2..3_000 {
        let Some(slots) = length(count) else { continue };
        assert!((2..slots).take_while(|factor| factor * factor <= slots).all(|factor| slots % factor != 0), "{slots}");
        assert!(slots as usize > count);
    }
}

/// One client's ports, and one port of the addresses of a network, come to all slots alike.
#[test]
fn flows_are_spread_over_the_slots() {
    let slots = 251_u32;
    let port = |number: u32| u16::try_from(number % 64_512 + 1_024).unwrap().to_be_bytes();
    let v4 = |number: u32| Ipv4::new((0xc633_6400 + number).to_be_bytes());
    let v6 = |number: u32| {
        let mut address = Ipv6::new([0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        address.octets[12..].copy_from_slice(&number.to_be_bytes());
        address
    };
    let https = 443_u16.to_be_bytes();
    let hashes: [(&str, &dyn Fn(u32) -> u32); 4] = [
        ("ports of an IPv4 client", &|number| hash(v4(9), port(number), https, 6)),
        ("IPv4 clients", &|number| hash(v4(number), port(7), https, 6)),
        ("ports of an IPv6 client", &|number| hash(v6(9), port(number), https, 17)),
        ("IPv6 clients", &|number| hash(v6(number), port(7), https, 17)),
    ];
    for (what, hash) in hashes {
        let mut counts = vec![0_u32; slots as usize];
        for number in 0..slots * 200 {
            counts[((u64::from(hash(number)) * u64::from(slots)) >> 32) as usize] += 1;
        }
        // 200 in each, with a standard deviation of 14: five of them.
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 130 && *most < 270, "{what}: {least} to {most} in a slot");
    }
}

proptest! {
    /// Whatever the numbers are, each slot is somebody's, and nothing panics.
    #[test]
    fn every_slot_is_filled(identities in proptest::collection::vec(any::<u64>(), 0..40), slots in prop_oneof![0..60_u32, Just(251)]) {
        let is_prime = slots > 1 && (2..slots).all(|factor| slots % factor != 0);
        let mut turns: Vec<Turn> = identities.iter().copied().map(Turn::new).collect();
        let mut table = vec![9_999; slots as usize];
        if is_prime || slots < 2 {
            fill(&mut turns, &mut table);
            prop_assert!(table.iter().all(|index| (*index as usize) < turns.len().max(1)));
        }
    }
}

/// A client outside is sent by its table, wherever the dice fall; a pod by the dice.
#[test]
fn clients_outside_are_sent_by_the_table() {
    let (vip, service) = (Ipv4::new([203, 0, 113, 77]), 77);
    let mut world = World::new();
    let tables = &mut world.v4;
    let first = u32::try_from(tables.slots.len()).unwrap();
    let ids: Vec<u32> = (0..2).map(|index| u32::try_from(tables.backends.len()).unwrap() + index).collect();
    for last in [7, 8] {
        tables.backends.push(Backend {
            addr: Ipv4::new([10, 244, 2, last]),
            port: 8080_u16.to_be_bytes(),
            flags: Backend::<Ipv4>::LIVE,
            service,
            ..Backend::default()
        });
    }
    let mut turns: Vec<Turn> =
        [7, 8].map(|last| Turn::new(identity(Ipv4::new([10, 244, 2, last]), [0x1f, 0x90]))).into();
    let mut table = vec![0; 251];
    fill(&mut turns, &mut table);
    tables.slots.extend(&ids);
    tables.slots.extend(table.iter().map(|index| ids[*index as usize]));
    let frontend = Frontend {
        service,
        first,
        count: 2,
        outside_first: first + 2,
        outside_count: 251,
        kind: FrontendKind::LoadBalancer as u8,
        flags: Frontend::TABLE,
        ..Frontend::default()
    };
    tables.frontends.push((FrontendKey::new(vip, 80_u16.to_be_bytes(), TCP), frontend));

    let mut env = HostEnv::new(&world);
    let mut send = |via, from: SocketAddr| {
        env.set_device(via);
        let bytes = tcp(from, "203.0.113.77:80".parse().unwrap(), "S", b"");
        let mut packet = HostPacket { bytes, is_partial: false };
        assert_eq!(env.run(Hook::Ingress, &mut packet), Verdict::Opened);
        packet.bytes[19]
    };
    let by_table = |client: [u8; 4], port: u16| {
        let number = hash(Ipv4::new(client), port.to_be_bytes(), 80_u16.to_be_bytes(), TCP);
        [7, 8][table[((u64::from(number) * 251) >> 32) as usize] as usize]
    };
    let mut by_chance = 0;
    for port in 1_024..1_124_u16 {
        let outside = [198, 51, 100, 9];
        assert_eq!(send(Uplink, (outside, port).into()), by_table(outside, port), "port {port}");
        let pod = [10, 244, 1, 5];
        by_chance += u32::from(send(Pod, (pod, port).into()) != by_table(pod, port));
    }
    assert!((20..=80).contains(&by_chance), "{by_chance} of 100 pods were sent elsewhere than by the table");
}
