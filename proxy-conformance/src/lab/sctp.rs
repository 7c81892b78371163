//! SCTP sockets, where the kernel has them. Connected one to one they are used like TCP's (RFC 6458 §4).
//!
//! Each is bound to one address: what is bound to none names all its machine's addresses to the other end, by which packets
//! would pass the Service by.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// IP protocol number (RFC 9260).
const SCTP: i32 = 132;
/// As the standard library has it for TCP.
const BACKLOG: i32 = 128;

/// Whether the kernel has SCTP.
pub(super) fn is_there() -> bool {
    socket(Domain::IPV4).is_ok()
}

/// A socket that is not bound yet.
pub(super) fn socket(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM, Some(Protocol::from(SCTP)))
}

/// A listener in the calling thread's network namespace.
pub(super) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(Domain::for_address(at))?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
