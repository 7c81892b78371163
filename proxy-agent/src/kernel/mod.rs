//! All that knows the kernel's BPF: maps, programs, where they are attached, what is pinned.
//!
//! What is in the kernel outlives the agent, so each part here begins by looking at what is there: a map is
//! adopted only if its shape fits, a link only if it is still attached to the device it is named after.
//! Absent on purpose: any opinion about what should be in the maps. That is a plan's.

mod attach;
mod cgroup;
mod cleanup;
mod clock;
mod clsact;
mod direction;
mod error;
mod expire;
mod flows;
mod heap;
mod hierarchy;
mod map;
mod mapping;
mod maps;
mod peers;
mod pins;
mod programs;
mod raw;
mod read;
mod sets;
mod sock_diag;
mod spec;
mod sys;
mod tcx;
mod write;
mod xdp;

pub use attach::{AttachMode, Attached, Attacher};
pub use cgroup::{SocketHookError, SocketHooks, SocketLb};
pub use cleanup::{CleanupError, cleanup};
pub use direction::Direction;
pub use error::{AttachError, LoadError, MapError, MapSetError, PinError, XdpError};
pub use flows::{FlowMove, flow_config};
pub use heap::trim_heap;
pub use hierarchy::Cgroup;
pub use map::Map;
pub use maps::{FamilyMaps, MapSet};
pub use pins::{PinLock, PinPath};
pub use programs::{
    LogError, OBJECT, PEER_LISTS, PROGRAMS, PacketLog, Programs, SOCKET_PROGRAMS, SocketProgram, UPLINK_PROGRAMS,
};
pub use sets::{catch_up, flow_moves, forget_flows, hold_flows_on, retire_former};
pub use sock_diag::{AbortError, Aborted};
pub use spec::Sizes;

/// Name of a device of this network namespace, if there is one of this number.
pub fn device_name(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?.into_string().ok()?;
    // nix gives an empty name where the device does not exist.
    (!name.is_empty()).then_some(name)
}

/// Whole seconds since boot, the clock of the programs (CLOCK_MONOTONIC).
///
/// # Errors
/// When the kernel does not tell.
pub fn now() -> std::io::Result<u64> {
    clock::monotonic_seconds()
}
