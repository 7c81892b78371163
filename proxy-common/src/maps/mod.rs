//! Keys and values of the BPF maps: the one contract between the agent and the kernel programs.
//!
//! Numbers that packets carry (addresses, ports) are byte arrays in network order; all other numbers are
//! in the machine's order. No type has padding: each byte is a named field, so that keys compare by bytes.
//! A change to any type here changes [`LAYOUT`].

mod affinity;
mod backend;
mod counters;
mod device;
mod flow;
mod fragment;
mod frontend;
mod peer;
mod range;
mod service;
mod service_net;

pub use affinity::{Affinity, AffinityKey};
pub use backend::{Backend, SlotIndex};
pub use counters::{DropReason, FlowEvent, ServiceCounters, XdpAction};
pub use device::{DetectLocal, Device, DeviceRole, HOPS};
pub use flow::{Flow, FlowConfig, FlowHold, FlowKey, FlowLife, FlowLimits, FlowSet, FlowSide, FlowState, FlowWay};
pub use fragment::{Early, EarlyKey, Fragment, FragmentHook, FragmentKey};
pub use frontend::{Frontend, FrontendKey, FrontendKind, Masquerade};
pub use peer::{DatagramKey, DatagramSide, Peer};
pub use range::{RangeKey, RangeMark};
pub use service::ServiceName;
pub use service_net::{AnswerBudget, SERVICE_NETS, ServiceNet};

/// Version of all the types in this module together. It names the folder that the maps are pinned under,
/// so that an agent never adopts a map it would misread. Which maps are the same as in an earlier layout, the agent
/// says where it lists them (`kernel/spec.rs`).
pub const LAYOUT: u32 = 8;

/// IP protocol number of TCP (RFC 9293).
pub const TCP: u8 = 6;
/// IP protocol number of UDP (RFC 768).
pub const UDP: u8 = 17;
/// IP protocol number of SCTP (RFC 9260).
pub const SCTP: u8 = 132;

/// Declares that a `repr(C)` type of byte arrays and integers may be read and written as bytes.
macro_rules! plain {
    ($($t:ty = $size:literal),+ $(,)?) => {$(
        const _: () = assert!(size_of::<$t>() == $size, "padding or a forgotten layout change");
        // SAFETY: repr(C), every field is plain data, and the size above is the sum of the fields.
        unsafe impl bytemuck::Zeroable for $t {}
        // SAFETY: as above; no padding, and every bit pattern is a value.
        unsafe impl bytemuck::Pod for $t {}
    )+};
}
use plain;

/// The same for the addresses themselves.
macro_rules! plain_address {
    ($($t:ty),+) => {$(
        // SAFETY: an aligned byte array of a multiple of its alignment.
        unsafe impl bytemuck::Zeroable for $t {}
        // SAFETY: as above.
        unsafe impl bytemuck::Pod for $t {}
    )+};
}
pub(crate) use plain_address;
