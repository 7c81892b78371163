//! Packets made by hand, sent from a host as they are: raw sockets, whose IP header is the sender's own (raw(7), ipv6(7)).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage};

use crate::lab::Family;

/// Sends IP packets of a family, by the routes of the namespace that it was made in.
#[derive(Debug)]
pub struct RawSender(OwnedFd);

impl RawSender {
    /// A sender for the calling thread's network namespace.
    pub fn new(family: Family) -> io::Result<Self> {
        let family = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        Ok(Self(socket::socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?))
    }

    /// Sends a packet, IP header first, on the way to an address. Its source may be anybody's.
    pub fn send(&self, packet: &[u8], to: SocketAddr) -> io::Result<()> {
        // A raw IPv6 socket takes no port.
        let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
        socket::sendto(self.0.as_raw_fd(), packet, &to, MsgFlags::empty())?;
        Ok(())
    }
}
