//! Packets made by hand, sent from a host as they are: raw sockets, whose IP header is the sender's own (raw(7), ipv6(7)).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage, sockopt,
};
use nix::sys::time::TimeVal;

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

/// Sends Ethernet frames by a device (packet(7)).
#[derive(Debug)]
pub struct FrameSender {
    socket: OwnedFd,
    device: SockaddrStorage,
}

impl FrameSender {
    /// By a device of the calling thread's network namespace.
    pub fn new(device: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(device)?;
        let socket = socket::socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
            sll_protocol: 0,
            sll_ifindex: i32::try_from(index).unwrap_or_default(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
        // SAFETY: the address is one of this family, and so long.
        let device = unsafe { SockaddrStorage::from_raw((&raw const address).cast(), Some(length)) };
        let device = device.ok_or_else(|| io::Error::other("an address of a device that is none"))?;
        Ok(Self { socket, device })
    }

    /// Sends a frame, Ethernet header first.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        socket::sendto(self.socket.as_raw_fd(), frame, &self.device, MsgFlags::empty())?;
        Ok(())
    }
}

/// A UDP datagram as it came in: where from, the port that it is for, and how long its payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// The port that it is for.
    pub to_port: u16,
    /// Bytes behind the UDP header.
    pub length: usize,
    /// Its sender made a checksum, or left one to the device.
    pub has_checksum: bool,
}

/// Sees every UDP datagram of a family that comes in for the namespace that it was made in, beside the sockets that they are for.
#[derive(Debug)]
pub struct DatagramTap {
    socket: OwnedFd,
    family: Family,
}

impl DatagramTap {
    /// For the calling thread's network namespace. Reading waits for `patience` at most.
    pub fn new(family: Family, patience: Duration) -> io::Result<Self> {
        /// Tens of thousands of small datagrams.
        const ROOM: usize = 32 << 20;
        let of = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let socket = socket::socket(of, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Udp)?;
        socket::setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
        let wait =
            TimeVal::new(i64::try_from(patience.as_secs()).unwrap_or(i64::MAX), i64::from(patience.subsec_micros()));
        socket::setsockopt(&socket, sockopt::ReceiveTimeout, &wait)?;
        Ok(Self { socket, family })
    }

    /// The next one; `None` where none has come.
    pub fn next(&self) -> io::Result<Option<Datagram>> {
        let mut packet = [0_u8; 2_048];
        let (length, from) = match socket::recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), &mut packet) {
            Ok(received) => received,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let packet = packet.get(..length).unwrap_or_default();
        // A raw IPv4 socket gives the IP header, too (raw(7)); a raw IPv6 one does not (ipv6(7)).
        let header = match self.family {
            Family::V4 => usize::from(packet.first().copied().unwrap_or(0) & 0xf) * 4,
            Family::V6 => 0,
        };
        let from = from.as_ref().and_then(|from| {
            let v4 = from.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| from.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        });
        let (Some(from), Some(&[a, b, c, d, _, _, g, h])) = (from, packet.get(header..header + 8)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a datagram without a UDP header"));
        };
        Ok(Some(Datagram {
            from: SocketAddr::new(from, u16::from_be_bytes([a, b])),
            to_port: u16::from_be_bytes([c, d]),
            length: length - header - 8,
            has_checksum: [g, h] != [0; 2],
        }))
    }
}
