//! The kernel programs load, and the set of pinned maps is adopted or refused as it should be. Needs root and a
//! BPF filesystem at /sys/fs/bpf.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use proxy_agent::kernel::{
    self, MapSet, MapSetError, PEER_LISTS, PROGRAMS, PacketLog, PinError, PinPath, Programs, SOCKET_PROGRAMS, Sizes,
    SocketLb, UPLINK_PROGRAMS,
};
use proxy_agent::plan::{FamilyOp, Op, Realized};
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::flows::Carried;
use proxy_common::maps::{
    Affinity, AffinityKey, Backend, Flow, FlowSet, FlowState, FlowWay, Frontend, FrontendKey, FrontendKind, LAYOUT,
    RangeKey, ServiceCounters, TCP, UDP,
};

/// A pin path of its own for each test, removed at its end, also by a panic.
struct Pins(PinPath);

impl Pins {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(PinPath::new(format!("/sys/fs/bpf/pointsman-test-{}-{number}", std::process::id())))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(self.0.path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                eprintln!("removing {}: {error}", self.0.path().display());
            }
            _ => {}
        }
    }
}

/// Small maps, so that a test costs little memory.
fn small() -> Sizes {
    Sizes {
        max_frontends: 100,
        max_slots: 10_000,
        max_backends: 5000,
        max_services: 50,
        initial_flows: 1024,
        max_flows: 1024,
        max_devices: 10,
        max_ranges: 10,
        max_affinities: 100,
        max_datagrams: 10,
    }
}

fn message(error: &dyn std::error::Error) -> String {
    proxy_agent::output::chain(error).to_string()
}

/// Has the maps made, or those that are there taken over, as an agent would that then ends.
fn make(pins: &PinPath, sizes: &Sizes) {
    drop(Programs::load(pins, sizes, PacketLog::Off, SocketLb::Host).unwrap());
}

#[test]
fn every_program_loads() {
    for log in [PacketLog::Off, PacketLog::Debug] {
        let pins = Pins::new();
        let _lock = pins.0.prepare().unwrap();
        let mut programs = Programs::load(&pins.0, &small(), log, SocketLb::All).unwrap_or_else(|error| {
            unreachable!("{}", message(&error));
        });
        programs.load_socket_hooks().unwrap_or_else(|error| {
            unreachable!("{}", message(&error));
        });
        programs.load_peer_lists().unwrap_or_else(|error| {
            unreachable!("{}", message(&error));
        });
        programs.load_uplink().and_then(|()| programs.load_xdp()).unwrap_or_else(|error| {
            unreachable!("{}", message(&error));
        });
        let counts = programs.verified_instructions().unwrap();
        let all = PROGRAMS.len() + UPLINK_PROGRAMS.len() + SOCKET_PROGRAMS.len() + PEER_LISTS.len();
        assert_eq!(counts.len(), all);
        for (name, count) in counts {
            let count = count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
            println!("{name:<12} log {log:<6} {count:>8} verified instructions", log = format!("{log:?}"));
        }
    }
}

#[test]
fn maps_are_made_once_and_then_adopted_with_all_that_is_in_them() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    make(&pins.0, &small());
    let mut wanted = Realized::default();
    {
        let maps = MapSet::open(&pins.0.maps()).unwrap();
        assert_eq!(maps.read().unwrap(), wanted);
        for op in ops() {
            maps.apply(&op).unwrap();
            maps.apply(&op).unwrap();
            wanted.apply(&op);
        }
    }
    let set = std::fs::read_link(pins.0.maps()).unwrap();
    make(&pins.0, &small());
    assert_eq!(std::fs::read_link(pins.0.maps()).unwrap(), set);
    let maps = MapSet::open(&pins.0.maps()).unwrap();
    assert_eq!(maps.read().unwrap(), wanted);
    assert_eq!(maps.service_stats.get(&3).unwrap().unwrap().first(), Some(&ServiceCounters::default()));
    assert!(maps.v4.frontend.as_fd().try_clone_to_owned().is_ok());
}

/// More entries than one batch holds, in both families, one deleted again.
fn ops() -> Vec<Op> {
    let mut ops = vec![Op::ResetCounters { id: 3 }];
    for (owner, bits) in [(0, 16), (3, 25), (3, 0), (4, 32)] {
        let v4 = RangeKey { prefix: 32 + bits, owner, addr: Ipv4::new([10, 244, 0, 0]) };
        let v6 = RangeKey { prefix: 32 + 2 * bits, owner, addr: Ipv6::new([0xfd; 16]) };
        ops.extend([Op::V4(FamilyOp::SetRange { key: v4 }), Op::V6(FamilyOp::SetRange { key: v6 })]);
        if owner == 4 {
            ops.extend([Op::V4(FamilyOp::DeleteRange { key: v4 }), Op::V6(FamilyOp::DeleteRange { key: v6 })]);
        }
    }
    for id in 1..4999 {
        let [a, b] = u16::try_from(id).unwrap().to_be_bytes();
        let port = [0, 80];
        let v4 = Backend {
            addr: Ipv4::new([10, 0, a, b]),
            port,
            flags: Backend::<Ipv4>::LIVE,
            service: 3,
            ..Default::default()
        };
        ops.push(Op::V4(FamilyOp::SetBackend { id, backend: v4 }));
        let mut addr = Ipv6::default();
        addr.octets[14..].copy_from_slice(&[a, b]);
        // Freed: only its generation is left.
        ops.push(Op::V6(FamilyOp::SetBackend { id, backend: Backend { generation: 7, ..Default::default() } }));
        ops.push(Op::V6(FamilyOp::SetSlots { first: 2 * id, backends: [id].into() }));
        if id < 100 {
            let key = FrontendKey::new(addr, port, TCP);
            let frontend = Frontend {
                service: 3,
                first: id,
                count: 1,
                kind: FrontendKind::ClusterIp as u8,
                ..Frontend::default()
            };
            ops.push(Op::V6(FamilyOp::SetFrontend { key, frontend }));
            if id == 50 {
                ops.push(Op::V6(FamilyOp::DeleteFrontend { key }));
            }
        }
    }
    ops
}

#[test]
fn a_full_map_is_an_error_that_names_it() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    make(&pins.0, &small());
    let maps = MapSet::open(&pins.0.maps()).unwrap();
    let result = (0..=u8::MAX).try_for_each(|last| {
        let key = FrontendKey::new(Ipv4::new([10, 0, 0, last]), [0, 80], TCP);
        maps.apply(&Op::V4(FamilyOp::SetFrontend { key, frontend: Frontend::default() }))
    });
    let text = message(&result.unwrap_err());
    assert!(text.contains("frontend_v4") && text.contains("full (100 entries)"), "{text}");
}

/// The maps that a set has pinned, by their kernel ids.
fn ids(folder: &Path) -> std::collections::BTreeMap<String, u32> {
    let id = |path: &Path| aya::maps::MapInfo::from_pin(path).unwrap().id();
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), id(&path))).collect()
}

#[test]
fn a_map_that_is_to_be_larger_is_replaced_with_all_that_is_in_it_and_the_others_are_shared() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    make(&pins.0, &small());
    let maps = MapSet::open(&pins.0.maps()).unwrap();
    for op in ops() {
        maps.apply(&op).unwrap();
    }
    let per_cpu = ServiceCounters { flows: 7, ..Default::default() };
    maps.service_stats.set(&3, &per_cpu).unwrap();
    let (before, wanted) = (ids(&pins.0.maps()), maps.read().unwrap());

    let larger = Sizes { max_frontends: 200, max_backends: 6000, max_services: 60, ..small() };
    make(&pins.0, &larger);
    let grown = MapSet::open(&pins.0.maps()).unwrap();
    assert_eq!(grown.sizes(), larger);
    assert_eq!(grown.read().unwrap(), wanted);
    assert!(grown.service_stats.get(&3).unwrap().unwrap().iter().all(|stats| *stats == per_cpu));
    let after = ids(&pins.0.maps());
    let changed: Vec<_> = before.keys().filter(|name| before.get(*name) != after.get(*name)).collect();
    assert_eq!(
        changed,
        ["backend_v4", "backend_v6", "frontend_v4", "frontend_v6", "service", "service_stats"],
        "flows go on in the same table"
    );
    // What is too small already is not made smaller.
    make(&pins.0, &small());
    assert_eq!(ids(&pins.0.maps()), after);
    // What programs of the former set remember of packets meanwhile is not lost either. That set is there until then.
    assert_eq!(sets(&pins.0), [format!("v{LAYOUT}-1"), format!("v{LAYOUT}-2")]);
    kernel::retire_former(&pins.0).unwrap();
    assert_eq!(sets(&pins.0), [format!("v{LAYOUT}-2")]);
}

/// The sets that are there.
fn sets(pins: &PinPath) -> Vec<String> {
    let names = std::fs::read_dir(pins.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut sets: Vec<_> = names.filter(|name| name.starts_with('v')).collect();
    sets.sort();
    sets
}

#[test]
fn what_programs_remember_while_a_table_is_replaced_is_carried_over_to_the_larger_one() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    make(&pins.0, &small());
    let old = MapSet::open(&pins.0.maps()).unwrap();
    let client = |last: u8| AffinityKey::new(Ipv4::new([10, 0, 0, last]), 1);
    let put = |maps: &MapSet, last, seen| {
        maps.v4.affinity.set(&client(last), &Affinity { backend: 1, generation: 1, seen }).unwrap();
    };
    put(&old, 1, 1);
    make(&pins.0, &Sizes { max_affinities: 2000, ..small() });
    let new = MapSet::open(&pins.0.maps()).unwrap();
    let seen = |last| new.v4.affinity.get(&client(last)).unwrap().map(|found| found[0].seen);
    assert_eq!((new.v4.affinity.capacity(), seen(1)), (2000, Some(1)));
    // A program of the old set remembers a client, one of the new set goes on with another.
    put(&old, 2, 2);
    put(&new, 1, 3);
    kernel::retire_former(&pins.0).unwrap();
    assert_eq!((seen(1), seen(2)), (Some(3), Some(2)));
}

/// Tables of flows of another size are made beside the former ones; nothing else is made anew.
#[test]
fn the_tables_of_flows_get_another_size() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    make(&pins.0, &small());
    for (initial_flows, max_flows, expected) in
        [(512, 4096, None), (4096, 4096, Some(4096)), (16, 2048, Some(2048)), (16, 4096, None)]
    {
        let before = ids(&pins.0.maps());
        make(&pins.0, &Sizes { initial_flows, max_flows, ..small() });
        let after = ids(&pins.0.maps());
        let changed: Vec<_> = before.keys().filter(|name| before.get(*name) != after.get(*name)).collect();
        let Some(flows) = expected else {
            assert!(changed.is_empty(), "{changed:?}");
            continue;
        };
        assert_eq!(changed, ["flow_config", "flow_v4", "flow_v6"]);
        assert_eq!(MapSet::open(&pins.0.maps()).unwrap().sizes().initial_flows, flows);
        // Programs with the former tables may run: no flow may begin until they are replaced.
        let moves = kernel::flow_moves(&pins.0).unwrap();
        assert_eq!(moves.len(), 1);
        let way = &moves[0];
        way.hold().unwrap();
        assert_eq!(way.carry(0).unwrap(), Carried::default());
        way.release().unwrap();
        kernel::retire_former(&pins.0).unwrap();
        assert!(kernel::flow_moves(&pins.0).unwrap().is_empty());
    }
}

#[test]
fn maps_of_another_layout_make_way_but_those_that_are_the_same_in_both_are_kept() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    make(&pins.0, &small());
    let maps = MapSet::open(&pins.0.maps()).unwrap();
    for op in ops() {
        maps.apply(&op).unwrap();
    }
    let before = ids(&pins.0.maps());
    // As an agent of layout 4 would have left it.
    let set = std::fs::read_link(pins.0.maps()).unwrap();
    let former = format!("v4-{}", set.to_str().unwrap().split_once('-').unwrap().1);
    std::fs::rename(pins.0.path().join(set), pins.0.path().join(&former)).unwrap();
    std::fs::remove_file(pins.0.maps()).unwrap();
    std::os::unix::fs::symlink(&former, pins.0.maps()).unwrap();

    let mut programs = Programs::load(&pins.0, &small(), PacketLog::Off, SocketLb::Host).unwrap();
    // An agent that ends before they are filled leaves the former ones in force.
    assert!(programs.need_filling());
    assert_eq!(ids(&pins.0.maps()), before);
    programs.are_filled(&pins.0).unwrap();
    assert!(!programs.need_filling());
    let after = ids(&pins.0.maps());
    let changed: Vec<_> = before.keys().filter(|name| before.get(*name) != after.get(*name)).collect();
    assert_eq!(
        changed,
        [
            "early",
            "early_scratch",
            "flow_hold",
            "frontend_v4",
            "frontend_v6",
            "hop",
            "range_v4",
            "range_v6",
            "service_net_v4",
            "service_net_v6",
            "service_stats",
            "slot_v4",
            "slot_v6"
        ],
        "what is filled again from the objects, what counts more than before, and what is new"
    );
    // Ids and generations of backends are those that flows know.
    let (now, then) = (MapSet::open(&pins.0.maps()).unwrap().read().unwrap(), maps.read().unwrap());
    assert_eq!(now.v6().backend(7).generation, 7);
    assert_eq!((now.v4().frontend_count(), now.services().count()), (0, then.services().count()));
    assert_eq!(sets(&pins.0).len(), 2, "programs of the former layout may still run");
    kernel::retire_former(&pins.0).unwrap();
    assert_eq!(sets(&pins.0).len(), 1);
    assert!(!Programs::load(&pins.0, &small(), PacketLog::Off, SocketLb::Host).unwrap().need_filling());
    assert_eq!(ids(&pins.0.maps()), after);
}

#[test]
fn a_pin_of_another_type_is_replaced_and_the_others_are_kept() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    make(&pins.0, &small());
    let before = ids(&pins.0.maps());
    let path = pins.0.maps().join("slot_v4");
    std::fs::remove_file(&path).unwrap();
    let odd: aya::maps::Array<_, u64> = aya::maps::Array::create(10_000, 0).unwrap();
    odd.pin(&path).unwrap();
    let refused = MapSet::open(&pins.0.maps()).unwrap_err();
    assert!(
        matches!(refused, MapSetError::Mismatch { map: "slot_v4", what: "value size", found: 8, wanted: 4, .. }),
        "{refused}"
    );
    let mut programs = Programs::load(&pins.0, &small(), PacketLog::Off, SocketLb::Host).unwrap();
    assert!(programs.need_filling());
    programs.are_filled(&pins.0).unwrap();
    MapSet::open(&pins.0.maps()).unwrap();
    let after = ids(&pins.0.maps());
    let changed: Vec<_> = before.keys().filter(|name| before.get(*name) != after.get(*name)).collect();
    assert_eq!(changed, ["slot_v4"]);
}

#[test]
fn a_set_that_was_never_current_is_removed() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    make(&pins.0, &small());
    let before = ids(&pins.0.maps());
    let half = pins.0.path().join(format!("v{LAYOUT}-7"));
    std::fs::create_dir(&half).unwrap();
    make(&pins.0, &small());
    assert!(!half.exists());
    assert_eq!(ids(&pins.0.maps()), before);
}

#[test]
fn a_missing_map_says_where_it_should_be() {
    let error = MapSet::open(Path::new("/sys/fs/bpf/pointsman-nowhere/v1")).map(drop).unwrap_err();
    assert!(error.to_string().contains("/sys/fs/bpf/pointsman-nowhere/v1/frontend_v4"), "{error}");
}

#[test]
fn a_pin_path_has_one_agent() {
    let pins = Pins::new();
    let lock = pins.0.prepare().unwrap();
    assert!(matches!(pins.0.prepare(), Err(PinError::Locked { .. })));
    drop(lock);
    drop(pins.0.prepare().unwrap());
}

#[test]
fn a_pin_path_elsewhere_is_refused_and_not_made() {
    let path = std::env::temp_dir().join("pointsman-not-bpf");
    let error = PinPath::new(&path).prepare().map(drop).unwrap_err();
    assert!(matches!(error, PinError::NotBpf { .. }), "{error}");
    assert!(!path.exists());
}

#[tokio::test(flavor = "current_thread")]
async fn cleanup_leaves_nothing_and_waits_for_no_agent() {
    let parent = Pins::new();
    let pins = PinPath::new(parent.0.path().join("inner"));
    let lock = pins.prepare().unwrap();
    make(&pins, &small());
    let refused = kernel::cleanup(&pins, false, |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("another agent runs"), "{refused}");
    drop(lock);
    let mut removed = Vec::new();
    kernel::cleanup(&pins, false, |line| removed.push(line)).await.unwrap();
    assert_eq!(removed.iter().filter(|line| line.starts_with("map ")).count(), 34, "{removed:?}");
    assert!(!pins.path().parent().unwrap().exists(), "{removed:?}");
    assert!(Path::new("/sys/fs/bpf").exists());
}

/// The sweep removes what is over, with its alias; what is alive stays, and so does the alias of what is being masqueraded.
#[test]
fn flows_that_are_over_go_whole() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    make(&pins.0, &small());
    let maps = MapSet::open(&pins.0.maps()).unwrap();
    const OPEN: u8 = FlowState::SYN | FlowState::ANSWERED | FlowState::CONFIRMED;
    let way = |proto: u8, state: u8, seen: u32| FlowWay { seen, tag: 1, kind: FlowWay::protocol(proto), state };
    let alias = |place: u32| FlowWay { seen: place, tag: 2, kind: 1 | FlowWay::ALIAS | FlowWay::MASQUERADE, state: 0 };
    let mut first: FlowSet<Ipv4> = bytemuck::Zeroable::zeroed();
    let mut second = first;
    first.ways = [
        // Closed by both sides.
        way(TCP, OPEN | FlowState::CLOSED, 1_000),
        // Closed by the client only: the backend may go on for an hour.
        way(TCP, OPEN | FlowState::CLIENT_FIN, 1_000),
        // Datagrams in one direction, just now.
        way(UDP, 0, 1_190),
        // Nobody has answered the SYN.
        way(TCP, FlowState::SYN, 1_000),
        // Masqueraded at this very moment.
        way(TCP, OPEN, 1_000),
        way(TCP, OPEN, 1_000),
        FlowWay::FREE,
    ];
    first.flows[0] = Flow { masquerade_alias: 2 * 8 + 1, ..first.flows[0] };
    first.flows[4].sequence = 1 << 31;
    // Of the first, of one that is masqueraded but does not know yet, of one that knows none, of nothing.
    second.ways = [alias(8 + 1), alias(8 + 5), alias(8 + 6), alias(8 + 7), FlowWay::FREE, FlowWay::FREE, FlowWay::FREE];
    let left = || {
        let ways = |index: u32| maps.v4.flow.get(&index).unwrap().unwrap()[0].ways;
        let numbers = |index| (1..).zip(ways(index)).filter(|(_, way)| !way.is_free()).map(|(way, _)| way).collect();
        let left: [Vec<u32>; 2] = [numbers(1), numbers(2)];
        left
    };
    maps.v4.flow.set(&1, &first).unwrap();
    maps.v4.flow.set(&2, &second).unwrap();
    let [used, other] = maps.sweep_flows(1_050).unwrap();
    assert_eq!((used.removed, used.established, used.half_open, used.closed, used.aliases), (0, 3, 2, 1, 2));
    assert_eq!((other.removed, other.established, other.capacity), (0, 0, 256 * 7));
    assert_eq!(left(), [vec![1, 2, 3, 4, 5, 6], vec![1, 2]], "too early for flows");
    assert_eq!(maps.sweep_flows(1_200).unwrap()[0].removed, 2);
    assert_eq!(left(), [vec![2, 3, 5, 6], vec![2]]);
    assert_eq!(maps.sweep_flows(5_000).unwrap()[0].removed, 2);
    assert_eq!(left(), [vec![5, 6], vec![2]]);
}
