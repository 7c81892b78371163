//! The table of flows on the host: many threads at once, floods, and all the masquerade ports that there are.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of flows and nonces, of which only the low bits are used"
)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::datapath::Verdict;
use proxy_common::flows::{Carried, Inserted, MASQUERADE_PORTS, NewFlow, Shared, carry, find, open, sweep};
use proxy_common::maps::{FlowConfig, FlowEvent, FlowKey, FlowLimits, FlowSet, FlowSide, FlowState, TCP, UDP};
use proxy_testkit::packets::{Hook, HostEnv, HostFlows, HostPacket, Via, World, tcp, udp};

const VIP: &str = "10.96.0.1:80";
const BACKEND: &str = "10.244.2.7:8080";
/// A NodePort whose backend is on another node.
const NODE_PORT: &str = "172.18.0.2:30001";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn client(number: u32) -> SocketAddr {
    let [_, a, b, c] = (number >> 15).to_be_bytes();
    SocketAddr::new([11, a, b, c].into(), 0x8000 | (number & 0x7fff) as u16)
}

/// Opens a connection and goes through its handshake. Whether that was possible.
fn connect(env: &mut HostEnv, from: SocketAddr) -> bool {
    env.run(Hook::Ingress, &mut HostPacket::new(tcp(from, at(VIP), "S", b""))) == Verdict::Opened
        && env.run(Hook::Egress, &mut HostPacket::new(tcp(at(BACKEND), from, "SA", b""))) == Verdict::Translated
        && env.run(Hook::Ingress, &mut HostPacket::new(tcp(from, at(VIP), "A", b""))) == Verdict::Translated
}

/// Whether packets of a connection still go both ways.
fn is_alive(env: &mut HostEnv, from: SocketAddr) -> bool {
    let mut request = HostPacket::new(tcp(from, at(VIP), "PA", b"data"));
    let mut reply = HostPacket::new(tcp(at(BACKEND), from, "PA", b"answer"));
    env.run(Hook::Ingress, &mut request) == Verdict::Translated
        && request.bytes == tcp(from, at(BACKEND), "PA", b"data")
        && env.run(Hook::Egress, &mut reply) == Verdict::Translated
        && reply.bytes == tcp(at(VIP), from, "PA", b"answer")
}

/// A flood ten times the table's size, of SYNs that the backend answers and of such that it does not, and of datagrams.
#[test]
fn a_flood_ends_no_connection_and_new_ones_succeed() {
    const SETS: u32 = 256;
    let mut env = HostEnv::with_sets(&World::new(), SETS);
    let held: Vec<SocketAddr> = (0..1_000).map(client).filter(|from| connect(&mut env, *from)).collect();
    assert_eq!(held.len(), 1_000);
    let (mut tried, mut connected) = (0, 0);
    for number in 0..SETS * 7 * 10 {
        let from = client(1_000_000 + number);
        match number % 3 {
            0 => drop(env.run(Hook::Ingress, &mut HostPacket::new(tcp(from, at(VIP), "S", b"")))),
            1 => {
                env.run(Hook::Ingress, &mut HostPacket::new(tcp(from, at(VIP), "S", b"")));
                env.run(Hook::Egress, &mut HostPacket::new(tcp(at(BACKEND), from, "SA", b"")));
            }
            _ => drop(env.run(Hook::Ingress, &mut HostPacket::new(udp(from, at(VIP), b"x")))),
        }
        if number % 100 == 0 {
            env.now += 1;
            tried += 1;
            let from = client(2_000_000 + number);
            if connect(&mut env, from) {
                connected += 1;
                // And it ends as it should.
                env.run(Hook::Ingress, &mut HostPacket::new(tcp(from, at(VIP), "R", b"")));
            }
        }
    }
    let dead = held.iter().filter(|from| !is_alive(&mut env, **from)).count();
    assert_eq!(dead, 0, "of {} connections", held.len());
    assert!(connected * 100 >= tried * 99, "{connected} of {tried} new connections");
    assert!(env.flow_events_v4(FlowEvent::EvictedHalfOpen) > 10_000);
}

/// A table full of established connections takes no more, and loses none; when they are over, it does.
#[test]
fn a_full_table_drops_new_flows_only() {
    let mut env = HostEnv::with_sets(&World::new(), 8);
    let held: Vec<SocketAddr> = (0..500).map(client).filter(|from| connect(&mut env, *from)).collect();
    assert!((40..=56).contains(&held.len()), "{} of 56 places are used", held.len());
    assert!(env.flow_events_v4(FlowEvent::Full) > 0);
    assert!(held.iter().all(|from| is_alive(&mut env, *from)));
    env.now += FlowLimits::DEFAULT.tcp_established + 1;
    assert!(connect(&mut env, client(10_000)), "an idle one makes way");
    let used = sweep::<Ipv4>(env.flows_v4(), env.now);
    assert_eq!((used.established, used.removed as usize), (1, held.len() - 1));
}

/// Every flow has a masquerade port of its own; when there are no more, new flows are dropped, and no other.
#[test]
fn there_are_28_000_masquerade_ports_to_one_backend() {
    const FLOWS: u32 = 28_000;
    let mut env = HostEnv::with_sets(&World::new(), 32_768);
    env.set_device(Via::Uplink);
    let mut ports = vec![false; 65_536];
    let leave = |env: &mut HostEnv, number: u32| -> Option<u16> {
        let from = client(number);
        let mut packet = HostPacket::new(udp(from, at(NODE_PORT), b"x"));
        env.run(Hook::Ingress, &mut packet);
        let verdict = env.run(Hook::Egress, &mut packet);
        if verdict != Verdict::Translated {
            return None;
        }
        let port = u16::from_be_bytes([packet.bytes[20], packet.bytes[21]]);
        assert!(MASQUERADE_PORTS.contains(&port));
        // The backend answers: from now on nothing evicts the flow.
        let mut answer = HostPacket::new(udp(at(BACKEND), SocketAddr::new(at(NODE_PORT).ip(), port), b"y"));
        assert_eq!(env.run(Hook::Ingress, &mut answer), Verdict::Translated);
        assert_eq!(answer.bytes, udp(at(BACKEND), from, b"y"));
        assert_eq!(env.run(Hook::Egress, &mut answer), Verdict::Translated);
        assert_eq!(answer.bytes, udp(at(NODE_PORT), from, b"y"));
        Some(port)
    };
    for number in 0..FLOWS {
        let full = |env: &HostEnv| env.flow_events_v4(FlowEvent::Full);
        let Some(port) = leave(&mut env, number) else {
            unreachable!("flow {number} found no port; for {} flows there was no room", full(&env))
        };
        assert!(!std::mem::replace(&mut ports[usize::from(port)], true), "port {port} was given twice");
    }
    let more = (FLOWS..FLOWS + 2_000).filter(|number| leave(&mut env, *number).is_some()).count();
    assert!(more <= MASQUERADE_PORTS.len() - FLOWS as usize, "{more} more flows");
    for number in 0..FLOWS {
        let mut again = HostPacket::new(udp(client(number), at(NODE_PORT), b"x"));
        assert_eq!(env.run(Hook::Ingress, &mut again), Verdict::Translated);
        assert_eq!(env.run(Hook::Egress, &mut again), Verdict::Translated);
        let port = u16::from_be_bytes([again.bytes[20], again.bytes[21]]);
        assert!(ports[usize::from(port)]);
    }
}

/// Flows whose every field follows from a number and a nonce, so that a mix of two is seen.
trait Made: Shared {
    fn made(net: u8, word: u32) -> Self;
}
impl Made for Ipv4 {
    fn made(net: u8, word: u32) -> Self {
        let [_, b, c, d] = word.to_be_bytes();
        Self::new([net, b, c, d])
    }
}
impl Made for Ipv6 {
    fn made(net: u8, word: u32) -> Self {
        let [a, b, c, d] = word.to_be_bytes();
        Self::new([0xfd, net, a, b, c, d, net, 0, a, b, c, d, 0, a, b, d])
    }
}

fn made<A: Made>(number: u32, nonce: u32, proto: u8) -> NewFlow<A> {
    NewFlow {
        client: A::made(1, number),
        frontend: A::made(2, number),
        backend: A::made(3, nonce),
        client_port: (number as u16).to_be_bytes(),
        frontend_port: [0, 80],
        stack_port: (number as u16).to_be_bytes(),
        backend_port: (nonce as u16).to_be_bytes(),
        service: nonce,
        backend_id: !nonce,
        generation: nonce.rotate_left(16),
        now: 100,
        proto,
        state: if proto == TCP { FlowState::SYN } else { 0 },
        ..NewFlow::default()
    }
}

/// Threads insert, evict, look up and use the same few flows in a table that is far too small. Nobody ever reads a flow
/// that was not stored as it is.
fn race<A: Made>()
where
    FlowSet<A>: bytemuck::Zeroable,
{
    const NUMBERS: u32 = 64;
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 300_000;
    let flows = HostFlows::<A>::new(FlowConfig::new(7, 250, 2, FlowLimits::DEFAULT));
    let (read, stored) = (AtomicU64::new(0), AtomicU64::new(0));
    let is_done = AtomicBool::new(false);
    let check = |number: u32, proto: u8| {
        let new = made::<A>(number, 0, proto);
        let key = new.key(FlowSide::Client);
        let Some(found) = find(&flows, &key, FlowSide::Client) else { return };
        let [stack_port, backend_port] = found.inner_ports();
        let (backend, service, (id, generation)) = (found.backend(), found.service(), found.backend_identity());
        if !found.is_whole() {
            return;
        }
        let expected = made::<A>(number, service, proto);
        assert_eq!(
            (backend, id, generation, backend_port),
            (expected.backend, expected.backend_id, expected.generation, expected.backend_port)
        );
        assert!(stack_port == expected.stack_port, "{stack_port:?}");
        read.fetch_add(1, Ordering::Relaxed);
        found.touch(100, if number.is_multiple_of(5) { FlowState::RESET } else { 0 });
        // The reply finds the same.
        let key = FlowKey { far: backend, far_port: backend_port, near_port: stack_port, ..key };
        if let Some(reply) = find(&flows, &key, FlowSide::Stack) {
            let ports = reply.outer_ports();
            let frontend = reply.frontend();
            if reply.is_whole() {
                assert_eq!((frontend, ports), (new.frontend, [new.client_port, new.frontend_port]));
            }
        }
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (flows, stored, check) = (&flows, &stored, &check);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(u64::from(thread));
                for round in 0..ROUNDS {
                    let (number, proto) = (random.u32(..NUMBERS), if random.bool() { TCP } else { UDP });
                    if random.u8(..4) == 0 {
                        let mut new = made::<A>(number, (round << 3) | thread, proto);
                        if open(flows, &mut new, None, 0x404) == Ok(Inserted::New) {
                            stored.fetch_add(1, Ordering::Relaxed);
                        }
                    } else {
                        check(number, proto);
                    }
                }
            });
        }
        let (flows, is_done) = (&flows, &is_done);
        let sweeper = scope.spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                sweep::<A>(flows, 105);
                thread::yield_now();
            }
        });
        // The scope waits for the others; the sweeper is told when they can only be nearly done.
        thread::sleep(std::time::Duration::from_millis(500));
        is_done.store(true, Ordering::Relaxed);
        drop(sweeper.join());
    });
    let (read, stored) = (read.into_inner(), stored.into_inner());
    println!("{read} flows read, {stored} stored, contended {}", flows.events(FlowEvent::Contended));
    assert!(read > 1_000 && stored > 1_000, "{read} flows read, {stored} stored");
    // And each is there once.
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..NUMBERS {
        for proto in [TCP, UDP] {
            let new = made::<A>(number, 0, proto);
            let key = new.key(FlowSide::Client);
            if let Some(found) = find(&flows, &key, FlowSide::Client) {
                assert!(seen.insert(found.place));
            }
        }
    }
    let used = sweep::<A>(&flows, 100);
    assert_eq!(seen.len() as u32, used.established + used.half_open + used.closed);
}

#[test]
fn nobody_sees_a_mix_of_two_ipv4_flows() {
    race::<Ipv4>();
}

#[test]
fn nobody_sees_a_mix_of_two_ipv6_flows() {
    race::<Ipv6>();
}

/// Threads store the same flow at once, each for another backend: one is stored, and all go there.
#[test]
fn a_connection_is_stored_once() {
    for nonce in 0..2_000 {
        let flows = HostFlows::<Ipv4>::new(FlowConfig::new(7, 250, 2, FlowLimits::DEFAULT));
        let start = std::sync::Barrier::new(3);
        let stored: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|thread| {
                    let (flows, start) = (&flows, &start);
                    scope.spawn(move || {
                        let mut new = made::<Ipv4>(1, nonce * 4 + thread, UDP);
                        start.wait();
                        open(flows, &mut new, None, 0x404)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|r| *r == Ok(Inserted::New)).count()
        });
        assert_eq!(stored, 1);
        assert_eq!(sweep::<Ipv4>(&flows, 100).half_open, 1);
    }
}

/// A client whose backend is dead is not sent there again by whoever replaced the flow meanwhile.
#[test]
fn an_ended_flow_is_replaced_once() {
    let flows = HostFlows::<Ipv4>::new(FlowConfig::new(7, 250, 2, FlowLimits::DEFAULT));
    let mut first = made::<Ipv4>(1, 1, UDP);
    assert_eq!(open(&flows, &mut first, None, 0x404), Ok(Inserted::New));
    let key = first.key(FlowSide::Client);
    let ended = find(&flows, &key, FlowSide::Client).unwrap().sequence;
    assert_eq!(open(&flows, &mut made(1, 2, UDP), Some(ended), 0x404), Ok(Inserted::New));
    assert_eq!(open(&flows, &mut made(1, 3, UDP), Some(ended), 0x404), Ok(Inserted::There));
    assert_eq!(find(&flows, &key, FlowSide::Client).unwrap().service(), 2);
}

/// Flows with all that they may have are the same in a table of another size: states, masquerades, changed ports.
#[test]
fn flows_are_carried_into_a_table_of_another_size() {
    for (before, after) in [(256, 1_024), (1_024, 256), (256, 311)] {
        let mut env = HostEnv::with_sets(&World::new(), before);
        let held: Vec<SocketAddr> = (0..600).map(client).filter(|from| connect(&mut env, *from)).collect();
        assert_eq!(held.len(), 600);
        env.set_device(Via::Uplink);
        let masqueraded: Vec<_> = (10_000..10_100)
            .map(|number| {
                let mut packet = HostPacket::new(udp(client(number), at(NODE_PORT), b"x"));
                env.run(Hook::Ingress, &mut packet);
                assert_eq!(env.run(Hook::Egress, &mut packet), Verdict::Translated);
                (number, packet.bytes)
            })
            .collect();
        let from = env.replace_flows_v4(HostFlows::new(FlowConfig::new(0x5eed, 250, after, FlowLimits::DEFAULT)));
        let carried = carry(&from, env.flows_v4(), 0, env.now);
        assert_eq!(carried, Carried { stored: 700, there: 0, lost: 0 });
        // Once more: all are there already.
        let again = carry(&from, env.flows_v4(), 0, env.now);
        assert_eq!(again, Carried { stored: 0, there: 700, lost: 0 });
        assert_eq!(sweep::<Ipv4>(env.flows_v4(), env.now).established, 600);
        assert!(held.iter().all(|from| is_alive(&mut env, *from)));
        for (number, left) in masqueraded {
            let from = client(number);
            let mut again = HostPacket::new(udp(from, at(NODE_PORT), b"x"));
            assert_eq!(env.run(Hook::Ingress, &mut again), Verdict::Translated);
            assert_eq!(env.run(Hook::Egress, &mut again), Verdict::Translated);
            assert_eq!(again.bytes, left, "by the same masquerade port");
            let port = u16::from_be_bytes([left[20], left[21]]);
            let mut answer = HostPacket::new(udp(at(BACKEND), SocketAddr::new(at(NODE_PORT).ip(), port), b"y"));
            assert_eq!(env.run(Hook::Ingress, &mut answer), Verdict::Translated);
            assert_eq!(env.run(Hook::Egress, &mut answer), Verdict::Translated);
            assert_eq!(answer.bytes, udp(at(NODE_PORT), from, b"y"));
        }
    }
}

/// What has changed in the former table since counts: states, flows that took the place of others.
#[test]
fn what_is_carried_again_is_as_new_as_in_the_former_table() {
    let former = HostFlows::<Ipv4>::new(FlowConfig::new(7, 250, 64, FlowLimits::DEFAULT));
    let other = HostFlows::<Ipv4>::new(FlowConfig::new(7, 250, 128, FlowLimits::DEFAULT));
    let key = |number: u32| made::<Ipv4>(number, 0, TCP).key(FlowSide::Client);
    for number in 0..20 {
        assert_eq!(open(&former, &mut made(number, 1, TCP), None, 0x404), Ok(Inserted::New));
    }
    assert_eq!(carry(&former, &other, 0, 100), Carried { stored: 20, ..Carried::default() });
    let established = FlowState::SYN | FlowState::ANSWERED | FlowState::CONFIRMED;
    find(&former, &key(1), FlowSide::Client).unwrap().touch(110, established);
    find(&former, &key(2), FlowSide::Client).unwrap().touch(110, FlowState::RESET);
    let replaced = NewFlow { now: 110, ..made(2, 5, TCP) };
    assert_eq!(open(&former, &mut { replaced }, None, 0x404), Ok(Inserted::New));
    let added = NewFlow { now: 110, ..made(30, 6, TCP) };
    assert_eq!(open(&former, &mut { added }, None, 0x404), Ok(Inserted::New));
    // Of the others nothing was seen since.
    assert_eq!(carry(&former, &other, 110, 110), Carried { stored: 2, there: 1, lost: 0 });
    let found = |number| find(&other, &key(number), FlowSide::Client).unwrap();
    assert_eq!((found(1).word.seen, found(1).word.state), (110, established));
    assert_eq!((found(2).service(), found(2).word.state), (5, FlowState::SYN));
    assert_eq!((found(30).service(), found(30).began()), (6, 110));
    assert_eq!((found(3).word.seen, found(3).began()), (100, 100));
    // The reply of the flow that was replaced leads nowhere.
    assert!(find(&other, &made::<Ipv4>(2, 1, TCP).key(FlowSide::Stack), FlowSide::Stack).is_none());
}

/// Established flows that do not fit are counted, and no other loses its place for them.
#[test]
fn a_table_that_is_too_small_says_so() {
    let mut env = HostEnv::with_sets(&World::new(), 64);
    let held: Vec<SocketAddr> = (0..200).map(client).filter(|from| connect(&mut env, *from)).collect();
    let small = HostFlows::<Ipv4>::new(FlowConfig::new(0x5eed, 250, 8, FlowLimits::DEFAULT));
    let carried = carry(env.flows_v4(), &small, 0, env.now);
    assert_eq!((carried.stored + carried.lost) as usize, held.len());
    assert!((40..=56).contains(&carried.stored), "{carried:?}");
}

/// While tables are replaced no flow begins, and those that are there go on.
#[test]
fn new_flows_wait_while_they_are_held() {
    let mut env = HostEnv::new(&World::new());
    assert!(connect(&mut env, client(1)));
    env.hold.until = env.now + 2;
    let syn = tcp(client(2), at(VIP), "S", b"");
    let mut packet = HostPacket::new(syn.clone());
    assert_eq!(env.run(Hook::Ingress, &mut packet), Verdict::Again);
    assert_eq!(packet.bytes, syn);
    assert!(is_alive(&mut env, client(1)));
    let bystander = tcp(client(2), at("10.244.1.1:80"), "S", b"");
    assert_eq!(env.run(Hook::Ingress, &mut HostPacket::new(bystander)), Verdict::Pass);
    // Nobody has lifted it.
    env.now += 2;
    assert!(connect(&mut env, client(2)));
}

/// A connection that is closed keeps its ports for as long as the backend's socket may be in TIME_WAIT: 60 s, and what
/// the kernel's timer wheel rounds up (with 100 ticks in a second, to 5.12 s).
#[test]
fn a_closed_connection_is_remembered_longer_than_its_backend_does() {
    let flows = HostFlows::<Ipv4>::new(FlowConfig::new(7, 250, 2, FlowLimits::DEFAULT));
    let mut new = made::<Ipv4>(1, 1, TCP);
    assert_eq!(open(&flows, &mut new, None, 0x404), Ok(Inserted::New));
    let found = find(&flows, &new.key(FlowSide::Client), FlowSide::Client).unwrap();
    found.touch(100, FlowState::ANSWERED | FlowState::CONFIRMED | FlowState::CLOSED);
    assert_eq!(sweep(&flows, 100 + 66).closed, 1);
    assert_eq!(sweep(&flows, 100 + 67).removed, 1);
}

/// While closed connections fill most of a table, so that many lie in other sets than their own, no masquerade port is
/// given twice to one backend.
#[test]
fn masquerade_ports_of_closed_connections_are_not_given_again() {
    const FLOWS: u32 = 1_500;
    let mut env = HostEnv::with_sets(&World::new(), 768);
    env.set_device(Via::Uplink);
    let mut ports = std::collections::BTreeMap::new();
    for number in 0..FLOWS {
        if number % 100 == 0 {
            env.now += 1;
        }
        let from = client(number);
        let mut syn = HostPacket::new(tcp(from, at(NODE_PORT), "S", b""));
        assert_eq!(env.run(Hook::Ingress, &mut syn), Verdict::Opened);
        assert_eq!(env.run(Hook::Egress, &mut syn), Verdict::Translated);
        let port = u16::from_be_bytes([syn.bytes[20], syn.bytes[21]]);
        assert_eq!(ports.insert(port, number), None, "port {port} of flow {number}");
        let near = SocketAddr::new(at(NODE_PORT).ip(), port);
        for (flags, is_reply) in [("SA", true), ("A", false), ("FA", true), ("FA", false), ("A", true)] {
            let packet =
                if is_reply { tcp(at(BACKEND), near, flags, b"") } else { tcp(from, at(NODE_PORT), flags, b"") };
            let mut packet = HostPacket::new(packet);
            assert_eq!(env.run(Hook::Ingress, &mut packet), Verdict::Translated, "{flags} of flow {number}");
            assert_eq!(env.run(Hook::Egress, &mut packet), Verdict::Translated, "{flags} of flow {number}");
        }
        if number % 250 == 0 {
            sweep(env.flows_v4(), env.now);
        }
    }
    assert_eq!(sweep::<Ipv4>(env.flows_v4(), env.now).closed, FLOWS);
}

/// A client that opens its connection anew while the backend remembers the last one keeps the masquerade port. So nobody else
/// gets it, whom the backend would take for an old packet of the last one.
#[test]
fn a_connection_that_is_opened_anew_keeps_its_masquerade_port() {
    const ROUNDS: usize = 300;
    let mut env = HostEnv::with_sets(&World::new(), 64);
    env.set_device(Via::Uplink);
    let open = |env: &mut HostEnv, from: SocketAddr, ends: [(&'static str, bool); 2]| -> u16 {
        let mut syn = HostPacket::new(tcp(from, at(NODE_PORT), "S", b""));
        assert_eq!(env.run(Hook::Ingress, &mut syn), Verdict::Opened);
        assert_eq!(env.run(Hook::Egress, &mut syn), Verdict::Translated);
        let port = u16::from_be_bytes([syn.bytes[20], syn.bytes[21]]);
        let near = SocketAddr::new(at(NODE_PORT).ip(), port);
        for (flags, is_reply) in [("SA", true), ("A", false)].into_iter().chain(ends) {
            let packet =
                if is_reply { tcp(at(BACKEND), near, flags, b"") } else { tcp(from, at(NODE_PORT), flags, b"") };
            let mut packet = HostPacket::new(packet);
            assert_eq!(env.run(Hook::Ingress, &mut packet), Verdict::Translated, "{flags}");
            assert_eq!(env.run(Hook::Egress, &mut packet), Verdict::Translated, "{flags}");
        }
        port
    };
    let closed = [("FA", true), ("FA", false)];
    let first = open(&mut env, client(1), closed);
    for round in 0..ROUNDS {
        env.now += u32::from(round % 10 == 0);
        let ends = if round % 2 == 0 { [("A", true), ("RA", false)] } else { closed };
        assert_eq!(open(&mut env, client(1), ends), first, "round {round}");
        assert_ne!(open(&mut env, client(2), closed), first);
    }
    let used = sweep::<Ipv4>(env.flows_v4(), env.now);
    assert_eq!((used.closed, used.aliases), (2, 2), "each has the entry that it had, and its alias");
    // One side alone has closed: the backend may go on with it. The new one has another port.
    let half = open(&mut env, client(3), [("FA", true), ("A", false)]);
    assert_ne!(open(&mut env, client(3), closed), half);
}
