//! Sockets with a port of one's own choice, which several of them may have at once.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use proxy_testkit::client::PATIENCE;
use socket2::{Domain, Socket, Type};

fn bound(at: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.bind(&at.into())?;
    Ok(socket)
}

/// A TCP connection from an address and port to another.
pub fn connect_from(at: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = bound(at, Type::STREAM)?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

/// A UDP socket at an address and port, connected to another.
pub fn connect_udp_from(at: SocketAddr, to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bound(at, Type::DGRAM)?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Has a connection end with a RST when it is dropped: nothing of it is left, on either side.
pub fn reset_on_drop(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO))
}
