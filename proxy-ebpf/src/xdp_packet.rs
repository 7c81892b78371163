//! A frame at an XDP hook, as the core's packet.

use aya_ebpf::bindings::xdp_md;
use bytemuck::Pod;
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::datapath::checksum::never_zero;
use proxy_common::datapath::{Packet, Place, TransportChange, place};

use crate::ETHERNET;
use crate::bounds::value_at;

/// A frame with an Ethernet header.
pub struct XdpPacket {
    ctx: *mut xdp_md,
}

impl XdpPacket {
    #[inline(always)]
    pub fn new(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    /// Where a value stands in the packet, if the packet is long enough.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        value_at(bounds(self.ctx), ETHERNET, offset)
    }
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn length(&self) -> u32 {
        let (data, end) = bounds(self.ctx);
        end.wrapping_sub(data).wrapping_sub(ETHERNET) as u32
    }

    #[inline(always)]
    fn load<T: Pod>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` has compared the value's end with the packet's; any bytes are a value of a Pod.
        self.at::<T>(offset).map(|value| unsafe { value.read_unaligned() })
    }

    #[inline(always)]
    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as in `load`; the frame is this program's to write.
        self.at::<T>(offset).map(|place| unsafe { place.write_unaligned(value) })
    }

    #[inline(always)]
    fn fix_checksum(&mut self, offset: usize, change: &TransportChange) -> Option<()> {
        let old: [u8; 2] = self.load(offset)?;
        let mut all = change.pseudo;
        all.merge(change.body);
        let new = all.applied_to(old);
        self.store(offset, if change.udp { never_zero(new) } else { new })
    }

    #[inline(always)]
    fn is_checksum_partial(&mut self, _offset: usize) -> Option<bool> {
        // Such packets are left as they came: see `datapath::accelerate`.
        Some(false)
    }

    #[inline(always)]
    fn truncate(&mut self, _len: u32) -> Option<()> {
        // Answers of our own are tc's.
        None
    }

    #[inline(always)]
    fn prepend(&mut self, _len: u32) -> Option<()> {
        None
    }

    #[inline(always)]
    fn locate_v4(&self) -> Place {
        Place::from_bits(xdp_locate_v4(self.ctx))
    }

    #[inline(always)]
    fn locate_v6(&self) -> Place {
        Place::from_bits(xdp_locate_v6(self.ctx))
    }
}

/// [`Packet::locate_v4`], a global function: see [`crate::flows`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_locate_v4(ctx: *mut xdp_md) -> u64 {
    place::<Ipv4, _>(&XdpPacket { ctx }).to_bits()
}

/// [`Packet::locate_v6`], likewise.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_locate_v6(ctx: *mut xdp_md) -> u64 {
    place::<Ipv6, _>(&XdpPacket { ctx }).to_bits()
}

/// Where the packet begins and ends. Read anew each time: see `tc_packet`.
#[inline(always)]
pub fn bounds(ctx: *mut xdp_md) -> (usize, usize) {
    // SAFETY: the context is the hook's own.
    unsafe {
        let data = (&raw const (*ctx).data).read_volatile();
        let end = (&raw const (*ctx).data_end).read_volatile();
        (whole(data), whole(end))
    }
}

/// A field of the context that is a pointer to the verifier. The compiler must not know that it has 32 bits: it would put that
/// half of it on the stack, which the verifier refuses.
#[inline(always)]
fn whole(pointer: u32) -> usize {
    let mut pointer = u64::from(pointer);
    // SAFETY: the register stays what it is.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) pointer, options(nomem, preserves_flags, nostack)) };
    pointer as usize
}
