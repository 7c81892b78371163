//! What is stored with the sockets that were led to a backend, listed for the agent.
//!
//! An iterator of the kernel (kernel/bpf/bpf_iter.c) walks one socket storage and calls the program for each socket. The
//! list of sock_diag(7) leaves storages out where a socket is not of a protocol with connections, UDP's among them
//! (`inet_sk_diag_fill` of net/ipv4/inet_diag.c), and those are what the agent is after.

use core::ffi::c_void;
use core::ptr::{addr_of, from_ref};

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write};
use proxy_common::addr::Address;
use proxy_common::maps::Peer;

/// `struct bpf_iter__bpf_sk_storage_map` (net/core/bpf_sk_storage.c).
#[repr(C)]
pub struct StorageIter {
    meta: *const Meta,
    map: *const c_void,
    /// Null at the end.
    sk: *mut c_void,
    /// Null at the end.
    value: *const c_void,
}

/// The beginning of `struct bpf_iter_meta` (include/linux/bpf.h).
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// Writes a socket's cookie, and what is stored with it behind that.
#[inline(always)]
pub fn list<A: Address>(ctx: *const StorageIter) -> i32 {
    // SAFETY: the context is the iterator's; the verifier knows its pointers, and each is read whole.
    unsafe {
        let (sk, value) = (addr_of!((*ctx).sk).read_volatile(), addr_of!((*ctx).value).read_volatile());
        if sk.is_null() || value.is_null() {
            return 0;
        }
        let seq = (*(*ctx).meta).seq;
        let cookie: u64 = bpf_get_socket_cookie(sk);
        // What has no room is left out, and the program called again with more of it.
        bpf_seq_write(seq, from_ref(&cookie).cast(), size_of::<u64>() as u32);
        bpf_seq_write(seq, value, size_of::<Peer<A>>() as u32);
    }
    0
}
