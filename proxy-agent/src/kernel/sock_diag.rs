//! Connected UDP sockets whose backend is gone: found and aborted, so that their processes connect anew.
//!
//! What a connected socket sends goes to its peer without a hook. The programs store with each socket which backend it
//! was led to, and [`super::peers`] reads that. sock_diag(7) lists the sockets of this network namespace, with the
//! same cookies, and ends one on request (`SOCK_DESTROY`, where the kernel was built with CONFIG_INET_DIAG_DESTROY). The
//! process then gets ECONNABORTED where it waits, and EDESTADDRREQ where it sends.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;

use aya::programs::ProgramFd;
use bytemuck::{Pod, Zeroable};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use proxy_common::addr::Address;
use proxy_common::maps::{Backend, Peer, UDP};

use super::error::MapError;
use super::maps::{FamilyMaps, MapSet};
use super::peers;
use super::programs::{PEER_LISTS, Programs};

/// Numbers of include/linux/socket.h and include/uapi/linux/{netlink,sock_diag,inet_diag}.h.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `1 << TCP_ESTABLISHED`, which for UDP means connected.
const CONNECTED: u32 = 1 << 1;
/// Bytes of a netlink header.
const HEADER: usize = 16;

/// `struct inet_diag_sockid`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SocketId {
    ports: [[u8; 2]; 2],
    addresses: [[u8; 16]; 2],
    device: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Request {
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: SocketId,
}

/// What became of the sockets whose backend is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aborted {
    /// How many were aborted.
    pub sockets: usize,
    /// The kernel cannot abort sockets; how many that concerned.
    pub left: usize,
}

/// The sockets cannot be looked through.
#[derive(Debug, thiserror::Error)]
pub enum AbortError {
    /// sock_diag does not answer.
    #[error("listing the connected UDP sockets")]
    List(#[source] io::Error),
    /// The iterator cannot be made or read.
    #[error("listing what is stored with sockets")]
    Peers(#[source] io::Error),
    /// A backend cannot be read.
    #[error(transparent)]
    Map(#[from] MapError),
}

impl MapSet {
    /// Aborts the connected UDP sockets of this network namespace whose backend no longer serves their Service port.
    /// None, where the kernel has no list of what is stored with sockets.
    ///
    /// # Errors
    /// When the sockets cannot be listed, or a map cannot be read.
    pub fn abort_orphans(&self, programs: &Programs) -> Result<Aborted, AbortError> {
        let [list4, list6] = PEER_LISTS.map(|name| programs.peer_list(name));
        let mut aborted = Aborted::default();
        // IPv6 sockets may talk to IPv4 backends.
        abort(&self.v4, list4, &[AF_INET, AF_INET6], &mut aborted)?;
        abort(&self.v6, list6, &[AF_INET6], &mut aborted)?;
        Ok(aborted)
    }
}

fn abort<A: Address>(
    maps: &FamilyMaps<A>,
    list: Option<&ProgramFd>,
    families: &[u8],
    aborted: &mut Aborted,
) -> Result<(), AbortError>
where
    Peer<A>: Pod,
    Backend<A>: Pod,
{
    let Some(list) = list else { return Ok(()) };
    let peers = peers::list::<A>(list.as_fd(), maps.peer.as_fd()).map_err(AbortError::Peers)?;
    let mut gone = HashMap::new();
    for (cookie, peer) in peers {
        let backend = maps.backend.get(&peer.backend_id)?.and_then(|values| values.first().copied());
        if backend.is_none_or(|backend| backend.generation != peer.generation) {
            gone.insert(cookie, peer);
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    for &family in families {
        for id in connected(family).map_err(AbortError::List)? {
            // One that was connected elsewhere since is not to be disturbed.
            if !gone.get(&id.cookie()).is_some_and(|peer| id.is_to(peer)) {
                continue;
            }
            match destroy(family, id) {
                Ok(()) => aborted.sockets += 1,
                // Closed since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                    aborted.left += 1;
                }
                Err(error) => return Err(AbortError::List(error)),
            }
        }
    }
    Ok(())
}

impl SocketId {
    /// The number that no other socket has.
    fn cookie(&self) -> u64 {
        let [low, high] = self.cookie;
        u64::from(high) << 32 | u64::from(low)
    }

    /// Whether the socket is still connected to that backend.
    fn is_to<A: Address>(&self, peer: &Peer<A>) -> bool {
        let [_, port] = self.ports;
        let [_, address] = self.addresses;
        let backend = bytemuck::bytes_of(&peer.backend);
        // IPv4: alone at the beginning, or at the end of an IPv6 address.
        port == peer.backend_port && (address.starts_with(backend) || address.ends_with(backend))
    }
}

/// The connected UDP sockets of a family.
fn connected(family: u8) -> io::Result<Vec<SocketId>> {
    let request = Request { family, protocol: UDP, states: CONNECTED, ..Request::zeroed() };
    let mut found = Vec::new();
    converse(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &request, |body| {
        // struct inet_diag_msg: family, state, timer, retransmissions, the socket's id, and more.
        if let Some(id) = body.get(4..4 + size_of::<SocketId>()) {
            found.push(bytemuck::pod_read_unaligned(id));
        }
    })?;
    Ok(found)
}

fn destroy(family: u8, id: SocketId) -> io::Result<()> {
    let request = Request { family, protocol: UDP, states: u32::MAX, id, ..Request::zeroed() };
    converse(SOCK_DESTROY, NLM_F_ACK, &request, |_| {})
}

/// Sends a request and hands on the bodies of all messages that answer it.
fn converse(kind: u16, flags: u16, request: &Request, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let length = HEADER + size_of::<Request>();
    let mut message = u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(bytemuck::bytes_of(request));
    socket.send(&message, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while let Some((length, kind)) = header(rest) {
            let Some(body) = rest.get(HEADER..length) else { break };
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.first_chunk().copied().map_or(0, i32::from_ne_bytes);
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => each(body),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Length and type of a message.
fn header(message: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(*message.first_chunk()?);
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    usize::try_from(length).ok().filter(|length| *length >= HEADER).map(|length| (length, kind))
}

#[cfg(test)]
mod tests {
    use proxy_common::addr::{Ipv4, Ipv6};

    use super::*;

    #[test]
    fn a_socket_is_known_by_where_it_is_connected() {
        let v4 = Peer { backend: Ipv4::new([10, 0, 0, 1]), backend_port: [0, 53], ..Peer::default() };
        let v6 = Peer { backend: Ipv6::new([9; 16]), backend_port: [0, 53], ..Peer::default() };
        let mut id = SocketId::zeroed();
        id.ports[1] = [0, 53];
        assert!(!id.is_to(&v4) && !id.is_to(&v6));
        id.addresses[1][..4].copy_from_slice(&[10, 0, 0, 1]);
        assert!(id.is_to(&v4));
        id.addresses[1] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
        assert!(id.is_to(&v4), "mapped");
        id.addresses[1] = [9; 16];
        assert!(id.is_to(&v6));
        id.ports[1] = [0, 54];
        assert!(!id.is_to(&v6));
        id.cookie = [7, 1];
        assert_eq!(id.cookie(), 1 << 32 | 7);
    }
}
