//! A device's offloads, by the ioctl that ethtool(8) uses.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use proxy_testkit::netns::NsHandle;

/// `ETHTOOL_SGRO` and `SIOCETHTOOL` of include/uapi/linux/{ethtool,sockios}.h.
const ETHTOOL_SGRO: u32 = 0x2c;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ifreq`, with the pointer that this ioctl takes.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: *mut Value,
    rest: [u8; 16],
}

/// Switches GRO on for a veth device. Beside that, this lets it take whole batches of frames from its peer (NAPI), as a
/// network card does: without it, `bpf_redirect` into its peer finds nobody.
pub fn receive_in_batches(ns: &NsHandle, device: &str) -> Result<()> {
    ensure!(device.len() < libc::IFNAMSIZ, "{device} is too long a name");
    ns.run(|| -> io::Result<()> {
        let socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        let mut value = Value { command: ETHTOOL_SGRO, data: 1 };
        let mut request = Request { name: [0; libc::IFNAMSIZ], value: &raw mut value, rest: [0; 16] };
        request.name.iter_mut().zip(device.bytes()).for_each(|(to, from)| *to = from);
        // SAFETY: both structures are as the kernel knows them and outlive the call; the name ends with a zero.
        if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    })?
    .with_context(|| format!("switching GRO on for {device} in {}", ns.name()))
}
