//! Making one end of a pair behave like a wire.
//!
//! Between namespaces nobody computes checksums, and nobody takes what an XDP program at the other end sends back
//! (`veth_xdp_flush` in drivers/net/veth.c wakes only an end that has an XDP program itself). On a real wire checksums are
//! complete, and frames are taken.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::libc;

use crate::netns::NsHandle;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// `XDP_FLAGS_DRV_MODE` (include/uapi/linux/if_link.h).
const DRV_MODE: u32 = 1 << 2;
/// `r0 = XDP_PASS; exit`.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// `struct ethtool_value` (include/uapi/linux/ethtool.h).
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

/// The first fields of `union bpf_attr` for a program.
#[repr(C)]
struct ProgramAttr {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
}

/// And for a link.
#[repr(C)]
struct LinkAttr {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Completes the checksums of what leaves through a device, and has it take what an XDP program at its other end sends: as long
/// as the link that is returned is kept.
///
/// # Errors
/// If there is no such device in the namespace, or it has an XDP program already.
pub fn make_wire(ns: &NsHandle, device: &str) -> Result<OwnedFd> {
    let set = || -> io::Result<OwnedFd> {
        complete_checksums(device)?;
        take_frames(nix::net::if_::if_nametoindex(device)?)
    };
    ns.run(set)?.with_context(|| format!("cannot make a wire of {device}"))
}

fn complete_checksums(device: &str) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let mut value = Value { cmd: ETHTOOL_STXCSUM, data: 0 };
    // SAFETY: a struct of arrays, integers and unions of them: all zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes().take(libc::IFNAMSIZ - 1)) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request leads to a value as the command takes it, and both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Attaches an XDP program that lets everything pass.
fn take_frames(ifindex: u32) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let attr = ProgramAttr {
        kind: BPF_PROG_TYPE_XDP,
        instructions: 2,
        code: PASS.as_ptr() as u64,
        license: license.as_ptr() as u64,
    };
    let program = bpf(BPF_PROG_LOAD, &attr)?;
    let program = program.as_raw_fd().cast_unsigned();
    bpf(BPF_LINK_CREATE, &LinkAttr { program, ifindex, attach_type: BPF_XDP, flags: DRV_MODE })
}

/// One of the two calls above.
fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes; the addresses in them are of what lives as long as the program.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    let fd = libc::c_int::try_from(result).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
