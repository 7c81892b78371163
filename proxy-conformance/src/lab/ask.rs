//! One question by a real socket of the calling thread's network namespace.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::socket::{SetSockOpt as _, sockopt};
use proxy_testkit::client::{Answer, describe};
use proxy_testkit::lab::Family;
use socket2::{Domain, Socket, Type};

use super::sctp;
use crate::run::{Fate, Question};
use crate::scenario::Protocol;

/// Asks once and waits so long for an answer.
pub(super) fn once(question: &Question, patience: Duration) -> Fate {
    let answer = match question.protocol {
        Protocol::Tcp => stream(socket(question, Type::STREAM), question, patience),
        Protocol::Udp => udp(question, patience),
        Protocol::Sctp => stream(sctp(question), question, patience),
    };
    match answer {
        Ok(Answer { pod, seen }) => Fate::Served { by: pod, seen },
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Fate::Refused,
            // EPERM: what a hook at the socket answers where packets would have been dropped.
            ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::PermissionDenied => Fate::Silent,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Fate::Untouched(describe(&error)),
            _ => Fate::Odd(format!("{} ({error})", describe(&error))),
        },
    }
}

fn stream(socket: io::Result<Socket>, question: &Question, patience: Duration) -> io::Result<Answer> {
    let socket = socket?;
    socket.connect_timeout(&question.to.into(), patience)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Answer::parse(&text)
}

fn sctp(question: &Question) -> io::Result<Socket> {
    let socket = sctp::socket(Domain::for_address(question.to))?;
    mark(&socket, question)?;
    let family = Family::of(question.to.ip());
    if !question.to.ip().is_loopback() {
        socket.bind(&SocketAddr::new(question.from.ip(family), 0).into())?;
    }
    Ok(socket)
}

/// Every other time by a socket that is not connected, and names the address itself.
fn udp(question: &Question, patience: Duration) -> io::Result<Answer> {
    let socket = socket(question, Type::DGRAM)?;
    let port = bind(&socket, question)?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(patience))?;
    let mut buffer = [0_u8; 256];
    let length = if port % 2 == 0 {
        socket.connect(question.to)?;
        socket.send(b"who")?;
        socket.recv(&mut buffer)?
    } else {
        hear_of_errors(&socket, question.to)?;
        socket.send_to(b"who", question.to)?;
        let (length, from) = socket.recv_from(&mut buffer)?;
        if from != question.to {
            return Err(io::Error::other(format!("asked {}, and {from} answered", question.to)));
        }
        length
    };
    Answer::parse(&String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()))
}

/// Has a socket that is not connected told of ICMP errors (ip(7), `IP_RECVERR`).
fn hear_of_errors(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    match to {
        SocketAddr::V4(_) => sockopt::Ipv4RecvErr.set(socket, &true),
        SocketAddr::V6(_) => sockopt::Ipv6RecvErr.set(socket, &true),
    }
    .map_err(io::Error::from)
}

/// Gives a socket the next port of all.
///
/// Datagrams from a port that was used lately belong to the flow that it had then, whatever has become of the Service's
/// rules since: chosen by chance, that would come about some time.
fn bind(socket: &Socket, question: &Question) -> io::Result<u16> {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    const PORTS: std::ops::Range<u16> = 32_768..60_999;
    let any: IpAddr = match question.to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    loop {
        let port = PORTS.start + COUNT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        match socket.bind(&SocketAddr::new(any, port).into()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            outcome => return outcome.map(|()| port),
        }
    }
}

/// A socket whose packets take the way by the node that the question names.
fn socket(question: &Question, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(question.to), kind, None)?;
    mark(&socket, question)?;
    Ok(socket)
}

fn mark(socket: &Socket, question: &Question) -> io::Result<()> {
    question.via.map_or(Ok(()), |node| socket.set_mark(u32::from(node)))
}
