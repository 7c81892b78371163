//! A tunnel whose packets have no Ethernet header, as WireGuard's and those of IP in IP: a tun device on each node, and two
//! threads that carry packets from one to the other.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;

use super::{Node, plan};
use crate::netns::NsHandle;

/// Bytes of a packet at most, and those of the tunnel's own header less than a segment has: as WireGuard.
pub(super) const MTU: u16 = 1420;

/// The threads, and the namespaces that the devices are in.
#[derive(Debug)]
pub(super) struct Tunnel {
    namespaces: [NsHandle; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Tunnel {
    /// Makes the devices, `tun0` on each node, and the routes to the other node's pods.
    pub(super) fn dig(nodes: [&Node; 2]) -> Result<Self> {
        let [one, two] = nodes.map(|node| open(&node.host.ns));
        let (one, two) = (Arc::new(one?), Arc::new(two?));
        for (node, other) in nodes.into_iter().zip([2, 1]) {
            let ((own_v4, own_v6), (v4, v6)) = (plan::pod(node.number(), 0), plan::pod(other, 0));
            node.host.ns.ip(&format!(
                "link set tun0 mtu {MTU} up
                 addr add {own_v4}/32 dev tun0
                 addr add {own_v6}/128 dev tun0 nodad
                 route add {v4}/24 dev tun0
                 route add {v6}/64 dev tun0"
            ))?;
        }
        let carry = |from: &Arc<File>, to: &Arc<File>| {
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            thread::spawn(move || carry(&from, &to))
        };
        let threads = vec![carry(&one, &two), carry(&two, &one)];
        Ok(Self { namespaces: nodes.map(|node| node.host.ns.clone()), threads })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // That ends a thread that waits for a packet.
        for ns in &self.namespaces {
            let _ = ns.ip("link del tun0");
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A tun device in a namespace, there as long as the file is open.
fn open(ns: &NsHandle) -> Result<File> {
    let open = || -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: a struct of integers, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"tun0") {
            *to = from.cast_signed();
        }
        let flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI);
        request.ifr_ifru.ifru_flags = flags.map_err(io::Error::other)?;
        // SAFETY: the kernel reads and writes no more than the request, which outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        Errno::result(result)?;
        Ok(file)
    };
    ns.run(open)?.context("cannot make a tun device (/dev/net/tun)")
}

/// Carries packets one way until the device is gone. What does not go in is lost, as on any network.
fn carry(mut from: &File, mut to: &File) {
    let mut packet = vec![0_u8; 65_536];
    while let Ok(length) = from.read(&mut packet) {
        let _ = to.write(packet.get(..length).unwrap_or_default());
    }
}
