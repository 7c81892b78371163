//! What is stored with the sockets that were led to a backend: read by an iterator in the kernel.
//!
//! It sees the sockets of all network namespaces, whatever their protocol, and ends with the call.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use bytemuck::Pod;
use proxy_common::addr::Address;
use proxy_common::maps::Peer;

use super::sys;

/// Bytes of a socket's cookie.
const COOKIE: usize = 8;

/// By the cookie of each socket whom it was led to. `program` is one of [`super::PEER_LISTS`].
pub(super) fn list<A: Address>(program: BorrowedFd<'_>, storage: BorrowedFd<'_>) -> io::Result<HashMap<u64, Peer<A>>>
where
    Peer<A>: Pod,
{
    let mut text = Vec::new();
    sys::iterate(program, storage)?.read_to_end(&mut text)?;
    Ok(parse(&text))
}

/// A cookie and a peer, and so on.
fn parse<A: Address>(text: &[u8]) -> HashMap<u64, Peer<A>>
where
    Peer<A>: Pod,
{
    text.chunks_exact(COOKIE + size_of::<Peer<A>>())
        .filter_map(|socket| socket.split_first_chunk::<COOKIE>())
        .map(|(cookie, peer)| (u64::from_ne_bytes(*cookie), bytemuck::pod_read_unaligned(peer)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proxy_common::addr::{Ipv4, Ipv6};

    use super::*;

    fn reads<A: Address + PartialEq>()
    where
        Peer<A>: Pod,
    {
        let peers = [1, 2].map(|generation| Peer::<A> { generation, ..Peer::default() });
        let mut text = Vec::new();
        for (cookie, peer) in (7_u64..).zip(&peers) {
            text.extend(cookie.to_ne_bytes());
            text.extend(bytemuck::bytes_of(peer));
        }
        let [one, two] = peers;
        assert_eq!(parse(&text), HashMap::from([(7, one), (8, two)]));
    }

    #[test]
    fn sockets_come_one_behind_the_other() {
        reads::<Ipv4>();
        reads::<Ipv6>();
    }
}
