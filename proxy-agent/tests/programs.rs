//! The kernel programs load, and the set of pinned maps is adopted or refused as it should be. Needs root and a
//! BPF filesystem at /sys/fs/bpf.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use proxy_agent::kernel::{
    self, MapSet, MapSetError, PEER_LISTS, PROGRAMS, PacketLog, PinError, PinPath, Programs, SOCKET_PROGRAMS, Sizes,
    SocketLb,
};
use proxy_agent::plan::{FamilyOp, Op, Realized};
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::maps::{
    Backend, Flow, FlowSide, FlowState, Frontend, FrontendKey, FrontendKind, RangeKey, ServiceCounters, TCP, UDP,
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
        max_flows: 1000,
        max_devices: 10,
        max_ranges: 10,
        max_affinities: 100,
        max_datagrams: 10,
    }
}

fn message(error: &dyn std::error::Error) -> String {
    proxy_agent::output::chain(error).to_string()
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
        let counts = programs.verified_instructions().unwrap();
        assert_eq!(counts.len(), PROGRAMS.len() + SOCKET_PROGRAMS.len() + PEER_LISTS.len());
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
    assert_eq!(MapSet::check(&pins.0.maps(), &small()).unwrap(), 0);
    drop(Programs::load(&pins.0, &small(), PacketLog::Off, SocketLb::Host).unwrap());
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
    assert_eq!(MapSet::check(&pins.0.maps(), &small()).unwrap(), 25);
    drop(Programs::load(&pins.0, &small(), PacketLog::Off, SocketLb::Host).unwrap());
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
    drop(Programs::load(&pins.0, &small(), PacketLog::Off, SocketLb::Host).unwrap());
    let maps = MapSet::open(&pins.0.maps()).unwrap();
    let result = (0..=u8::MAX).try_for_each(|last| {
        let key = FrontendKey::new(Ipv4::new([10, 0, 0, last]), [0, 80], TCP);
        maps.apply(&Op::V4(FamilyOp::SetFrontend { key, frontend: Frontend::default() }))
    });
    let text = message(&result.unwrap_err());
    assert!(text.contains("frontend_v4") && text.contains("full (100 entries)"), "{text}");
}

#[test]
fn a_pin_of_another_size_is_refused_and_left_alone() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    drop(Programs::load(&pins.0, &small(), PacketLog::Off, SocketLb::Host).unwrap());
    let larger = Sizes { max_frontends: 200, ..small() };
    let error = Programs::load(&pins.0, &larger, PacketLog::Off, SocketLb::Host).map(drop).unwrap_err();
    let text = message(&error);
    for part in ["frontend_v4", "100", "200", "--max-frontends 100", "cleanup"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    drop(Programs::load(&pins.0, &small(), PacketLog::Off, SocketLb::Host).unwrap());
}

#[test]
fn a_pin_of_another_type_is_refused() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    let slot: aya::maps::Array<_, u64> = aya::maps::Array::create(10_000, 0).unwrap();
    slot.pin(pins.0.maps().join("slot_v4")).unwrap();
    let error = MapSet::check(&pins.0.maps(), &small()).unwrap_err();
    assert!(
        matches!(error, MapSetError::Mismatch { map: "slot_v4", what: "value size", found: 8, wanted: 4, .. }),
        "{error}"
    );
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
    drop(Programs::load(&pins, &small(), PacketLog::Off, SocketLb::Host).unwrap());
    let refused = kernel::cleanup(&pins, false, |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("another agent runs"), "{refused}");
    drop(lock);
    let mut removed = Vec::new();
    kernel::cleanup(&pins, false, |line| removed.push(line)).await.unwrap();
    assert_eq!(removed.iter().filter(|line| line.starts_with("map ")).count(), 25, "{removed:?}");
    assert!(!pins.path().parent().unwrap().exists(), "{removed:?}");
    assert!(Path::new("/sys/fs/bpf").exists());
}

/// A flow goes when the last of its entries has been idle for long enough, and then whole; what is alive on one side, or
/// has made way for another connection, stays.
#[test]
fn flows_that_are_over_go_whole() {
    let pins = Pins::new();
    let _lock = pins.0.prepare().unwrap();
    drop(Programs::load(&pins.0, &small(), PacketLog::Off, SocketLb::Host).unwrap());
    let maps = MapSet::open(&pins.0.maps()).unwrap();
    const FINS: u8 = FlowState::ANSWERED | FlowState::CLIENT_FIN | FlowState::BACKEND_FIN;
    let flow = |last: u8, state: u8, seen: u32| Flow {
        client: Ipv4::new([10, 0, 0, last]),
        frontend: Ipv4::new([10, 96, 0, 1]),
        backend: Ipv4::new([10, 0, 1, 1]),
        masquerade: Ipv4::new([10, 0, 9, 9]),
        client_port: [1, last],
        frontend_port: [0, 80],
        backend_port: [31, 144],
        masquerade_port: [4, last],
        stack_port: [1, last],
        state,
        began: 100,
        seen,
        ..Flow::default()
    };
    let write = |proto: u8, sides: &[(FlowSide, Flow<Ipv4>)]| {
        for (side, flow) in sides {
            maps.v4.flow.set(&flow.key(*side, proto), flow).unwrap();
        }
    };
    use FlowSide::{Client, Masquerade, Stack};
    // Closed by both sides, as each side's entry knows only in part.
    write(
        TCP,
        &[
            (Client, flow(1, FlowState::CLIENT_FIN, 1_000)),
            (Stack, flow(1, FINS, 1_001)),
            (Masquerade, flow(1, FlowState::BACKEND_FIN, 1_001)),
        ],
    );
    // Closed by the client only: the backend may go on for an hour.
    write(TCP, &[(Client, flow(2, FlowState::CLIENT_FIN, 1_000)), (Stack, flow(2, FlowState::ANSWERED, 1_000))]);
    // Datagrams in one direction: the stack's side has not been seen since the first.
    write(UDP, &[(Client, flow(3, 0, 1_190)), (Stack, flow(3, 0, 100))]);
    // Nobody has answered the SYN.
    write(TCP, &[(Client, flow(4, FlowState::SYN, 1_000)), (Stack, flow(4, FlowState::SYN, 1_000))]);
    // The client's side has made way for a later connection.
    write(UDP, &[(Stack, flow(5, 0, 1_000))]);
    write(UDP, &[(Client, Flow { began: 1_190, ..flow(5, 0, 1_190) })]);
    let left = || {
        let mut left = Vec::new();
        maps.v4.flow.for_each(|key, _| left.push((key.near_port[1], key.side))).unwrap();
        left.sort_unstable();
        left
    };
    let removed = |now| maps.expire(now).unwrap().map(|family| family.removed).iter().sum::<usize>();
    assert_eq!(removed(1_050), 0, "too early for all");
    assert_eq!(removed(1_200), 6);
    assert_eq!(left(), [(2, 1), (2, 2), (3, 1), (3, 2), (5, 1)]);
    assert_eq!(removed(5_000), 5);
    assert_eq!(left(), []);
}
