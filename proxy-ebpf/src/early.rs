//! Fragments that have come before the first of their packet, kept in a map until it comes.
//!
//! A program cannot make a packet. So those that were kept travel in clones of the first one: its bytes are put aside, it
//! becomes one kept piece after the other, of each a clone comes in by the device that the piece came from, and then it
//! gets its own bytes back. The clones wait in the queue of this CPU until the program is done with the first one.
//!
//! The functions are global ones: see [`crate::flows`].

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes};
use proxy_common::maps::{Early, EarlyKey};

use crate::maps::{EARLY, EARLY_SCRATCH};

/// The error of an insertion where there is an entry already.
const EEXIST: i32 = -17;

/// A length that a helper takes for bytes of [`Early`], in a form that the verifier follows. `None` if it is too long.
#[inline(always)]
fn length(bytes: u32) -> Option<u32> {
    if bytes == 0 || bytes > Early::LONGEST {
        return None;
    }
    // A mask of its own, as the comparison may have been made with a copy.
    let bytes = core::hint::black_box(bytes) & Early::LONGEST;
    if bytes == 0 { None } else { Some(bytes) }
}

#[inline(always)]
fn get(key: &EarlyKey) -> Option<*const Early> {
    EARLY.get_ptr(key)
}

/// Fails with [`EEXIST`] where there is an entry, or with another error where there is no room.
#[inline(always)]
fn insert(key: &EarlyKey, piece: &Early) -> Result<(), i32> {
    EARLY.insert(key, piece, u64::from(BPF_NOEXIST))
}

#[inline(always)]
fn remove(key: &EarlyKey) {
    // It is gone in any case.
    let _ = EARLY.remove(key);
}

/// Keeps the packet. 0 if that is not possible.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn early_keep(skb: *mut __sk_buff, key: *mut EarlyKey, now: u32) -> u32 {
    // SAFETY: null, or what only the caller knows.
    let (Some(key), Some(piece)) = (unsafe { key.as_mut() }, EARLY_SCRATCH.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: the context is the hook's own.
    let (whole, ifindex) = unsafe { ((*skb).len, (*skb).ifindex) };
    let Some(bytes) = length(whole) else {
        return 0;
    };
    // SAFETY: this CPU's own element, and a program is not moved to another CPU; the helper writes so many bytes of it.
    let piece = unsafe {
        (*piece).seen = now;
        (*piece).ifindex = ifindex;
        (*piece).length = bytes;
        if bpf_skb_load_bytes(skb.cast(), 0, (&raw mut (*piece).bytes).cast(), bytes) != 0 {
            return 0;
        }
        &*piece
    };
    for number in 0..EarlyKey::PIECES {
        key.number = number;
        match insert(key, piece) {
            Ok(()) => return 1,
            Err(EEXIST) => {}
            // No room.
            Err(_) => return 0,
        }
    }
    0
}

/// Has all pieces that were kept under a key come in again.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn early_recall(skb: *mut __sk_buff, key: *mut EarlyKey) -> u32 {
    // SAFETY: null, or what only the caller knows.
    let Some(key) = (unsafe { key.as_mut() }) else {
        return 0;
    };
    key.number = 0;
    if get(key).is_none() {
        return 0;
    }
    let Some(own) = EARLY_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the context is the hook's own.
    let whole = unsafe { (*skb).len };
    let Some(bytes) = length(whole) else {
        return 0;
    };
    // SAFETY: this CPU's own element, as above.
    if unsafe { bpf_skb_load_bytes(skb.cast(), 0, (&raw mut (*own).bytes).cast(), bytes) } != 0 {
        return 0;
    }
    let mut count = 0;
    for number in 0..EarlyKey::PIECES {
        key.number = number;
        let Some(piece) = get(key) else {
            break;
        };
        // SAFETY: the element stays readable while the program runs, and nobody overwrites one.
        unsafe {
            if become_bytes(skb, piece) {
                bpf_clone_redirect(skb, (*piece).ifindex, u64::from(BPF_F_INGRESS));
                count += 1;
            }
        }
        remove(key);
    }
    // SAFETY: this CPU's own element. Its length is that of the packet.
    unsafe {
        (*own).length = bytes;
        become_bytes(skb, own);
    }
    count
}

/// Makes the packet what a piece is.
///
/// # Safety
/// `piece` is readable, and `skb` the hook's context.
#[inline(always)]
unsafe fn become_bytes(skb: *mut __sk_buff, piece: *const Early) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let Some(bytes) = length((*piece).length) else {
            return false;
        };
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        bpf_skb_change_tail(skb, bytes, 0) == 0
            && bpf_skb_store_bytes(skb, 0, (&raw const (*piece).bytes).cast(), bytes, flags) == 0
    }
}
