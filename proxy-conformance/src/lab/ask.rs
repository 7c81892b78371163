//! One question by a real socket of the calling thread's network namespace.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use proxy_testkit::client::{Answer, describe};
use socket2::{Domain, Socket, Type};

use crate::run::{Fate, Question};
use crate::scenario::Protocol;

/// Asks once and waits so long for an answer.
pub(super) fn once(question: &Question, patience: Duration) -> Fate {
    let answer = match question.protocol {
        Protocol::Tcp => tcp(question, patience),
        Protocol::Udp => udp(question, patience),
        Protocol::Sctp => Err(io::Error::from(ErrorKind::Unsupported)),
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

fn tcp(question: &Question, patience: Duration) -> io::Result<Answer> {
    let socket = socket(question, Type::STREAM)?;
    socket.connect_timeout(&question.to.into(), patience)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Answer::parse(&text)
}

fn udp(question: &Question, patience: Duration) -> io::Result<Answer> {
    let socket = socket(question, Type::DGRAM)?;
    bind(&socket, question)?;
    let socket = UdpSocket::from(socket);
    socket.connect(question.to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"who")?;
    let mut buffer = [0_u8; 256];
    let length = socket.recv(&mut buffer)?;
    Answer::parse(&String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()))
}

/// Gives a socket the next port of all.
///
/// Datagrams from a port that was used lately belong to the flow that it had then, whatever has become of the Service's
/// rules since: chosen by chance, that would come about some time.
fn bind(socket: &Socket, question: &Question) -> io::Result<()> {
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
            outcome => return outcome,
        }
    }
}

/// A socket whose packets take the way by the node that the question names.
fn socket(question: &Question, kind: Type) -> io::Result<Socket> {
    let domain = match question.to {
        SocketAddr::V4(_) => Domain::IPV4,
        SocketAddr::V6(_) => Domain::IPV6,
    };
    let socket = Socket::new(domain, kind, None)?;
    if let Some(node) = question.via {
        socket.set_mark(u32::from(node))?;
    }
    Ok(socket)
}
