//! A socket buffer at a tc hook, as the core's packet.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode,
};
use aya_ebpf::helpers::generated::{bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_pull_data};
use aya_ebpf::programs::TcContext;
use bytemuck::Pod;
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::datapath::checksum::{Delta, never_zero};
use proxy_common::datapath::{Family, Packet, Place, TransportChange, place};
use proxy_common::maps::EarlyKey;

use crate::bounds::{OFFSETS, value_at};
use crate::early::{early_keep, early_recall};
use crate::maps::CSUM_IPV6;

/// BPF_F_IPV6 of `bpf_l4_csum_replace`, from kernel 6.16 on.
const BPF_F_IPV6: u64 = 1 << 7;

/// No header that the core reads ends beyond this: an ICMP error with two IPv4 headers full of options.
const READABLE: u32 = 192;
const _: () = assert!(READABLE as usize <= OFFSETS);

/// A socket buffer whose IP header stands `L2` bytes from its beginning.
pub struct TcPacket<'a, const L2: usize> {
    ctx: &'a TcContext,
}

impl<'a, const L2: usize> TcPacket<'a, L2> {
    /// The packet, with its headers made readable where they lie in fragments of the buffer.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        let packet = Self { ctx };
        let (data, end) = bounds(ctx);
        let linear = end.wrapping_sub(data) as u32;
        let wanted = READABLE.min(ctx.len());
        if linear < wanted {
            // SAFETY: the context is the hook's own. A failure leaves the headers unreadable: not ours.
            unsafe { bpf_skb_pull_data(packet.skb(), wanted) };
        }
        packet
    }

    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    /// Corrects the checksum at `offset`, or what is there of it so far, by the kernel's helper.
    #[inline(always)]
    fn replace_checksum(&mut self, offset: usize, change: Delta, flags: u64) -> Option<()> {
        let offset = (L2 + (offset & OFFSETS)) as u32;
        // With size 0 the helper takes the difference of sums itself.
        // SAFETY: the context is the hook's own, and the helper checks the offset.
        let result = unsafe { bpf_l4_csum_replace(self.skb(), offset, 0, u64::from(change.folded()), flags) };
        (result == 0).then_some(())
    }

    /// Where a value stands in the packet, if the packet is long enough.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        value_at(bounds(self.ctx), L2, offset)
    }
}

impl<const L2: usize> Packet for TcPacket<'_, L2> {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.ctx.len().wrapping_sub(L2 as u32)
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context is the hook's own.
        unsafe { (*self.skb()).gso_size }
    }

    #[inline(always)]
    fn load<T: Pod>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` has compared the value's end with the packet's; any bytes are a value of a Pod.
        self.at::<T>(offset).map(|value| unsafe { value.read_unaligned() })
    }

    #[inline(always)]
    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as in `load`; the kernel unshares the buffer before a program that writes to it runs.
        self.at::<T>(offset).map(|place| unsafe { place.write_unaligned(value) })
    }

    /// The helper knows what the sums of this packet are (`inet_proto_csum_replace_by_diff`, net/core/utils.c), but each call
    /// costs as much as a look-up in a hash map. What it makes of a change of the pseudo header tells whether the checksum is
    /// whole or that header's alone (CHECKSUM_PARTIAL), so what else has changed is corrected here.
    #[inline(always)]
    fn fix_checksum(&mut self, offset: usize, change: &TransportChange) -> Option<()> {
        let mangled = if change.udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        if change.pseudo.is_neutral() {
            if change.body.is_nothing() {
                return Some(());
            }
            return self.replace_checksum(offset, change.body, mangled);
        }
        let before: [u8; 2] = self.load(offset)?;
        let ipv6 = if change.ipv6 && CSUM_IPV6.load() != 0 { BPF_F_IPV6 } else { 0 };
        self.replace_checksum(offset, change.pseudo, mangled | u64::from(BPF_F_PSEUDO_HDR) | ipv6)?;
        if change.body.is_nothing() {
            return Some(());
        }
        let after = self.load(offset)?;
        if after == change.pseudo.added_to(before) {
            // CHECKSUM_PARTIAL: the ports will be summed up when it is completed.
            return Some(());
        }
        let new = change.body.applied_to(after);
        self.store(offset, if change.udp { never_zero(new) } else { new })
    }

    #[inline(always)]
    fn is_checksum_partial(&mut self, offset: usize) -> Option<bool> {
        // `inet_proto_csum_replace_by_diff` (net/core/utils.c) leaves a CHECKSUM_PARTIAL packet's checksum alone
        // when told of a change outside the pseudo header: ask it to, and look.
        const PROBE: [u8; 2] = [0x12, 0x34];
        self.store(offset, PROBE)?;
        let mut change = Delta::default();
        change.add([1, 0]);
        self.replace_checksum(offset, change, 0)?;
        let after: [u8; 2] = self.load(offset)?;
        Some(u16::from_ne_bytes(after) == u16::from_ne_bytes(PROBE))
    }

    #[inline(always)]
    fn truncate(&mut self, len: u32) -> Option<()> {
        // SAFETY: the context is the hook's own, and the helper checks the length.
        let result = unsafe { bpf_skb_change_tail(self.skb(), L2 as u32 + len, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn prepend(&mut self, len: u32) -> Option<()> {
        // SAFETY: the context is the hook's own, and the helper checks the length.
        let result = unsafe {
            bpf_skb_adjust_room(
                self.skb(),
                len as i32,
                bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
                u64::from(BPF_F_ADJ_ROOM_FIXED_GSO),
            )
        };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn keep(&mut self, key: &mut EarlyKey, now: u32) -> bool {
        early_keep(self.skb(), key, now) != 0
    }

    #[inline(always)]
    fn recall(&mut self, key: &mut EarlyKey) {
        early_recall(self.skb(), key);
    }

    #[inline(always)]
    fn locate_v4(&self) -> Place {
        Place::from_bits(locate_v4(self.skb(), L2 as u32))
    }

    #[inline(always)]
    fn locate_v6(&self) -> Place {
        Place::from_bits(locate_v6(self.skb(), L2 as u32))
    }
}

/// [`Packet::locate_v4`], a global function: see [`crate::flows`]. The IP header stands `l2` bytes from the beginning.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn locate_v4(skb: *mut __sk_buff, l2: u32) -> u64 {
    locate::<Ipv4>(skb, l2)
}

/// [`Packet::locate_v6`], likewise.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn locate_v6(skb: *mut __sk_buff, l2: u32) -> u64 {
    locate::<Ipv6>(skb, l2)
}

#[inline(always)]
fn locate<A: Family>(skb: *mut __sk_buff, l2: u32) -> u64 {
    let ctx = TcContext::new(skb);
    let place = if l2 == 0 {
        place::<A, _>(&TcPacket::<0> { ctx: &ctx })
    } else {
        place::<A, _>(&TcPacket::<{ crate::ETHERNET }> { ctx: &ctx })
    };
    place.to_bits()
}

/// Where the readable part of the packet begins and ends.
///
/// Read anew each time: a helper may have moved the packet, and the compiler must not hand these two to a
/// function as the plain numbers that it takes them for.
#[inline(always)]
fn bounds(ctx: &TcContext) -> (usize, usize) {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the hook's own.
    unsafe {
        let data = (&raw const (*skb).data).read_volatile();
        let end = (&raw const (*skb).data_end).read_volatile();
        (data as usize, end as usize)
    }
}

/// Where both Ethernet addresses stand, the destination's first.
#[inline(always)]
fn ethernet(ctx: &TcContext) -> Option<*mut [[u8; 6]; 2]> {
    value_at(bounds(ctx), 0, 0)
}

/// Overwrites the Ethernet destination.
#[inline(always)]
pub fn set_destination(ctx: &TcContext, address: [u8; 6]) -> Option<()> {
    let addresses = ethernet(ctx)?;
    // SAFETY: `ethernet` has compared their end with the packet's.
    unsafe { addresses.cast::<[u8; 6]>().write_unaligned(address) };
    Some(())
}

/// Overwrites both Ethernet addresses.
#[inline(always)]
pub fn set_ethernet(ctx: &TcContext, destination: [u8; 6], source: [u8; 6]) -> Option<()> {
    let addresses = ethernet(ctx)?;
    // SAFETY: as above.
    unsafe { addresses.write_unaligned([destination, source]) };
    Some(())
}

/// Exchanges the Ethernet addresses, so that the packet goes back to who sent it.
#[inline(always)]
pub fn swap_ethernet(ctx: &TcContext) -> Option<()> {
    let addresses = ethernet(ctx)?;
    // SAFETY: as above.
    unsafe {
        let [destination, source] = addresses.read_unaligned();
        addresses.write_unaligned([source, destination]);
    }
    Some(())
}
