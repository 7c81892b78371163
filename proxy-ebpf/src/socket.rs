//! The shell of the socket hooks: the address that a process names in, the same or another one out.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::datapath::socket::{Destination, NoRoom, Outcome, Socket, connect, peer, send, sender};
use proxy_common::datapath::{Env, Family, Origin};
use proxy_common::maps::{DatagramKey, DropReason, Peer, TCP};

use crate::env::{KernelEnv, count_drop};
use crate::maps::{DATAGRAM_V4, DATAGRAM_V6, HOST_NETNS, PEER_V4, PEER_V6, SET_RETVAL, SOCKETS_OF_ALL};

/// The call goes on.
const ALLOW: i32 = 1;
/// The call fails, with EPERM or what `bpf_set_retval` says.
const DENY: i32 = 0;

const ENOBUFS: i32 = 105;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;

/// IP protocol number of multipath TCP (`IPPROTO_MPTCP`), whose Services are TCP's.
const MPTCP: u32 = 262;

/// Where a process is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Connect,
    Send,
    Receive,
    Peer,
}

/// A socket of one family, where a process calls the kernel.
struct KernelSocket<'a> {
    ctx: &'a SockAddrContext,
}

/// An IPv4 address in the context.
#[inline(always)]
pub fn run_v4(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let Some(origin) = origin(ctx) else { return ALLOW };
    // SAFETY: the context is the hook's own; its fields are read and written whole.
    let mut at = unsafe {
        let octets = addr_of!((*ctx.sock_addr).user_ip4).read_volatile().to_ne_bytes();
        destination(ctx, Ipv4::new(octets))
    };
    let outcome = run(ctx, hook, origin, &mut at);
    if outcome == Outcome::Translated {
        // SAFETY: as above.
        unsafe { addr_of_mut!((*ctx.sock_addr).user_ip4).write_volatile(u32::from_ne_bytes(at.addr.octets)) };
        set_port(ctx, at.port);
    }
    finish(outcome)
}

/// An IPv6 address in the context, or an IPv4 one in the form of one (RFC 4291 §2.5.5.2).
#[inline(always)]
pub fn run_v6(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let Some(origin) = origin(ctx) else { return ALLOW };
    let words = words(ctx);
    if words[0] | words[1] == 0 && is_mapped(ctx) {
        let mut at = destination(ctx, Ipv4::new(words[3].to_ne_bytes()));
        let outcome = run(ctx, hook, origin, &mut at);
        if outcome == Outcome::Translated {
            // SAFETY: the context is the hook's own; its fields are written whole.
            unsafe { addr_of_mut!((*ctx.sock_addr).user_ip6[3]).write_volatile(u32::from_ne_bytes(at.addr.octets)) };
            set_port(ctx, at.port);
        }
        return finish(outcome);
    }
    let mut at = destination(ctx, Ipv6::new(bytemuck::cast(words)));
    let outcome = run(ctx, hook, origin, &mut at);
    if outcome == Outcome::Translated {
        let words: [u32; 4] = bytemuck::cast(at.addr.octets);
        // SAFETY: as above.
        unsafe {
            addr_of_mut!((*ctx.sock_addr).user_ip6[0]).write_volatile(words[0]);
            addr_of_mut!((*ctx.sock_addr).user_ip6[1]).write_volatile(words[1]);
            addr_of_mut!((*ctx.sock_addr).user_ip6[2]).write_volatile(words[2]);
            addr_of_mut!((*ctx.sock_addr).user_ip6[3]).write_volatile(words[3]);
        }
        set_port(ctx, at.port);
    }
    finish(outcome)
}

#[inline(always)]
fn run<'a, A>(ctx: &'a SockAddrContext, hook: Hook, origin: Origin, at: &mut Destination<A>) -> Outcome
where
    A: Family,
    KernelEnv: Env<A>,
    KernelSocket<'a>: Socket<A>,
{
    let Some(mut env) = KernelEnv::of_socket(origin) else {
        return Outcome::Pass;
    };
    let mut socket = KernelSocket { ctx };
    match hook {
        Hook::Connect => connect(&mut env, &mut socket, at),
        Hook::Send if origin == Origin::Pods => Outcome::Pass,
        Hook::Send => send(&mut env, &mut socket, at),
        Hook::Receive => sender(&mut socket, at),
        Hook::Peer => peer(&mut socket, at),
    }
}

/// Whose socket it is. `None` where it is not to be translated.
#[inline(always)]
fn origin(ctx: &SockAddrContext) -> Option<Origin> {
    let host = match HOST_NETNS.load() {
        // SAFETY: without a context it tells the first namespace's.
        0 => unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) },
        cookie => cookie,
    };
    // SAFETY: the context is the hook's own.
    let own = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if own == host {
        return Some(Origin::Node);
    }
    (SOCKETS_OF_ALL.load() != 0).then_some(Origin::Pods)
}

/// The address with the port and protocol that go with it.
#[inline(always)]
fn destination<A: Address>(ctx: &SockAddrContext, addr: A) -> Destination<A> {
    // SAFETY: the context is the hook's own; its fields are read whole.
    let (port, protocol) = unsafe {
        let at = ctx.sock_addr;
        (addr_of!((*at).user_port).read_volatile(), addr_of!((*at).protocol).read_volatile())
    };
    let [first, second, _, _] = port.to_ne_bytes();
    let proto = if protocol == MPTCP { TCP } else { protocol as u8 };
    Destination { addr, port: [first, second], proto }
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, [first, second]: [u8; 2]) {
    // SAFETY: the context is the hook's own; the field is written whole. It holds the port's two bytes, and zeros.
    unsafe {
        addr_of_mut!((*ctx.sock_addr).user_port).write_volatile(u32::from_ne_bytes([first, second, 0, 0]));
    }
}

/// The four words of an IPv6 address. The kernel allows reads of one word only.
#[inline(always)]
fn words(ctx: &SockAddrContext) -> [u32; 4] {
    let at: *mut bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context is the hook's own.
    unsafe {
        [
            addr_of!((*at).user_ip6[0]).read_volatile(),
            addr_of!((*at).user_ip6[1]).read_volatile(),
            addr_of!((*at).user_ip6[2]).read_volatile(),
            addr_of!((*at).user_ip6[3]).read_volatile(),
        ]
    }
}

/// Whether the third word of an IPv6 address is that of an IPv4 one (RFC 4291 §2.5.5.2).
///
/// Its halves are read one by one: compared with a word of which the highest bit is set, LLVM sign-extends that word
/// and not the other where it has no 32-bit jumps, and they are never the same.
#[inline(always)]
fn is_mapped(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is the hook's own, and the kernel allows reads of half a word.
    let (first, second) = unsafe {
        let halves = addr_of!((*ctx.sock_addr).user_ip6[2]).cast::<u16>();
        (halves.read_volatile(), halves.add(1).read_volatile())
    };
    first == 0 && second == u16::MAX
}

/// The hook's answer. What fails fails as a client of another machine would see it, if sooner.
#[inline(always)]
fn finish(outcome: Outcome) -> i32 {
    let error = match outcome {
        Outcome::Pass | Outcome::Translated => return ALLOW,
        Outcome::Refused(reason) => {
            count_drop(reason);
            ECONNREFUSED
        }
        Outcome::Dropped(reason) => {
            count_drop(reason);
            if reason == DropReason::FlowTable { ENOBUFS } else { ETIMEDOUT }
        }
    };
    if SET_RETVAL.load() != 0 {
        // SAFETY: has no preconditions.
        unsafe { bpf_set_retval(-error) };
    }
    DENY
}

/// Implements a socket's own maps for one family.
macro_rules! socket {
    ($address:ty, $peer:ident, $datagram:ident, $source:expr) => {
        impl Socket<$address> for KernelSocket<'_> {
            #[inline(always)]
            fn cookie(&self) -> u64 {
                // SAFETY: the context is the hook's own.
                unsafe { bpf_get_socket_cookie(self.ctx.as_ptr()) }
            }

            #[inline(always)]
            fn source(&self) -> $address {
                $source(self)
            }

            #[inline(always)]
            fn peer(&self) -> Option<Peer<$address>> {
                // SAFETY: the storage lives as long as the socket, which the call holds; it is copied at once.
                unsafe { $peer.get_ptr_mut(self.ctx).as_ref().copied() }
            }

            #[inline(always)]
            fn set_peer(&mut self, peer: &Peer<$address>) -> Result<(), NoRoom> {
                let mut initial = *peer;
                // SAFETY: as above; the value is one of the map's type. The kernel has locked the socket.
                unsafe {
                    match $peer.get_or_insert_ptr_mut(self.ctx, Some(&mut initial)).as_mut() {
                        Some(stored) => *stored = *peer,
                        None => return Err(NoRoom),
                    }
                }
                Ok(())
            }

            #[inline(always)]
            fn clear_peer(&mut self) {
                // SAFETY: the socket is the context's. Nothing there: nothing to remove.
                let _ = unsafe { $peer.delete((*self.ctx.sock_addr).__bindgen_anon_1.sk) };
            }

            #[inline(always)]
            fn datagram(&mut self, key: &DatagramKey<$address>) -> Option<&mut Peer<$address>> {
                // SAFETY: the element stays mapped while the program runs, and the borrow of `self` ends before the
                // next store. Threads that share a socket may write the same words: each is read and written whole.
                $datagram.get_ptr_mut(key).map(|peer| unsafe { &mut *peer })
            }

            #[inline(always)]
            fn store_datagram(&mut self, key: &DatagramKey<$address>, peer: &Peer<$address>) -> Result<(), NoRoom> {
                $datagram.insert(key, peer, 0).map_err(|_| NoRoom)
            }
        }
    };
}

socket!(Ipv4, PEER_V4, DATAGRAM_V4, source_v4);
socket!(Ipv6, PEER_V6, DATAGRAM_V6, source_v6);

#[inline(always)]
fn source_v4(socket: &KernelSocket<'_>) -> Ipv4 {
    // SAFETY: the socket is the context's, and always there; the field is read whole.
    let word = unsafe {
        let sk = (*socket.ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() { 0 } else { addr_of!((*sk).src_ip4).read_volatile() }
    };
    Ipv4::new(word.to_ne_bytes())
}

#[inline(always)]
fn source_v6(socket: &KernelSocket<'_>) -> Ipv6 {
    // SAFETY: as above.
    let words: [u32; 4] = unsafe {
        let sk = (*socket.ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() {
            [0; 4]
        } else {
            [
                addr_of!((*sk).src_ip6[0]).read_volatile(),
                addr_of!((*sk).src_ip6[1]).read_volatile(),
                addr_of!((*sk).src_ip6[2]).read_volatile(),
                addr_of!((*sk).src_ip6[3]).read_volatile(),
            ]
        }
    };
    Ipv6::new(bytemuck::cast(words))
}
