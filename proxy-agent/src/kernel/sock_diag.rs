//! Connected UDP sockets whose backend is gone: found and aborted, so that their processes connect anew.
//!
//! What a connected socket sends goes to its peer without a hook. The programs store with each socket which backend it
//! was led to; the kernel gives that out with its list of sockets (sock_diag(7), `INET_DIAG_REQ_SK_BPF_STORAGES`, from
//! 5.7 on), and ends a socket on request (`SOCK_DESTROY`, where it was built with CONFIG_INET_DIAG_DESTROY). The process
//! then gets ECONNABORTED from its next call. Sockets of this network namespace only.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use bytemuck::{Pod, Zeroable};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use proxy_common::addr::Address;
use proxy_common::maps::{Backend, Peer, UDP};

use super::error::MapError;
use super::maps::{FamilyMaps, MapSet};

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
const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;
const SK_DIAG_BPF_STORAGE_MAP_VALUE: u16 = 3;
/// The bits of a type that are not its number.
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLA_F_NESTED: u16 = 0x8000;
/// `1 << TCP_ESTABLISHED`, which for UDP means connected.
const CONNECTED: u32 = 1 << 1;
/// Bytes of a netlink header and of one attribute's header.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

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

/// A connected socket and what is stored with it.
struct Connected {
    family: u8,
    id: SocketId,
    stored: Vec<u8>,
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
    /// A backend cannot be read.
    #[error(transparent)]
    Map(#[from] MapError),
}

impl MapSet {
    /// Aborts the connected UDP sockets of this network namespace whose backend no longer serves their Service port.
    ///
    /// # Errors
    /// When the sockets cannot be listed, or a map cannot be read.
    pub fn abort_orphans(&self) -> Result<Aborted, AbortError> {
        let mut aborted = Aborted::default();
        // IPv6 sockets may talk to IPv4 backends.
        abort(&self.v4, AF_INET, &mut aborted)?;
        abort(&self.v4, AF_INET6, &mut aborted)?;
        abort(&self.v6, AF_INET6, &mut aborted)?;
        Ok(aborted)
    }
}

fn abort<A: Address>(maps: &FamilyMaps<A>, family: u8, aborted: &mut Aborted) -> Result<(), AbortError>
where
    Peer<A>: Pod,
    Backend<A>: Pod,
{
    for socket in list(family, maps.peer.as_fd().as_raw_fd().cast_unsigned()).map_err(AbortError::List)? {
        let Some(peer) = socket.stored.get(..size_of::<Peer<A>>()).map(bytemuck::pod_read_unaligned::<Peer<A>>) else {
            continue;
        };
        let backend = maps.backend.get(&peer.backend_id)?.and_then(|values| values.first().copied());
        if backend.is_some_and(|backend| backend.generation == peer.generation) || !socket.id.is_to(&peer) {
            continue;
        }
        match destroy(&socket) {
            Ok(()) => aborted.sockets += 1,
            // Closed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => aborted.left += 1,
            Err(error) => return Err(AbortError::List(error)),
        }
    }
    Ok(())
}

impl SocketId {
    /// Whether the socket is still connected to that backend.
    fn is_to<A: Address>(&self, peer: &Peer<A>) -> bool {
        let [_, port] = self.ports;
        let [_, address] = self.addresses;
        let backend = bytemuck::bytes_of(&peer.backend);
        // IPv4: alone at the beginning, or at the end of an IPv6 address.
        port == peer.backend_port && (address.starts_with(backend) || address.ends_with(backend))
    }
}

/// The connected UDP sockets of a family, with what a map stores with them.
fn list(family: u8, map: u32) -> io::Result<Vec<Connected>> {
    let mut storages = attribute(SK_DIAG_BPF_STORAGE_REQ_MAP_FD, &map.to_ne_bytes());
    storages = attribute(INET_DIAG_REQ_SK_BPF_STORAGES | NLA_F_NESTED, &storages);
    let request = Request { family, protocol: UDP, states: CONNECTED, ..Request::zeroed() };
    let mut found = Vec::new();
    converse(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &request, &storages, |body| {
        // struct inet_diag_msg: family, state, timer, retransmissions, the socket's id, five numbers.
        let at = 4 + size_of::<SocketId>();
        let (Some(id), Some(rest)) = (body.get(4..at), body.get(at + 20..)) else { return };
        let stored = find(rest, INET_DIAG_SK_BPF_STORAGES)
            .and_then(|storages| attributes(storages).next())
            .and_then(|(_, storage)| find(storage, SK_DIAG_BPF_STORAGE_MAP_VALUE));
        if let Some(stored) = stored {
            found.push(Connected { family, id: bytemuck::pod_read_unaligned(id), stored: stored.to_vec() });
        }
    })?;
    Ok(found)
}

fn destroy(socket: &Connected) -> io::Result<()> {
    let request =
        Request { family: socket.family, protocol: UDP, states: u32::MAX, id: socket.id, ..Request::zeroed() };
    converse(SOCK_DESTROY, NLM_F_ACK, &request, &[], |_| {})
}

/// Sends a request and hands on the bodies of all messages that answer it.
fn converse(kind: u16, flags: u16, request: &Request, more: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let length = HEADER + size_of::<Request>() + more.len();
    let mut message = u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(bytemuck::bytes_of(request));
    message.extend(more);
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

/// An attribute, filled up to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The attributes in a stretch of bytes: number and value.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    })
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use proxy_common::addr::{Ipv4, Ipv6};

    use super::*;

    #[test]
    fn attributes_are_found_and_lies_about_their_length_end_the_list() {
        let inner = attribute(3, &[7; 5]);
        let mut bytes = attribute(1, &[1, 2]);
        bytes.extend(attribute(20 | NLA_F_NESTED, &inner));
        assert_eq!(find(&bytes, 20).and_then(|inner| find(inner, 3)), Some(&[7_u8; 5][..]));
        assert_eq!(find(&bytes, 2), None);
        bytes.truncate(bytes.len() - 6);
        assert_eq!(find(&bytes, 20), None);
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0);
    }

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
    }
}
