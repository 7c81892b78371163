//! Small real servers on threads inside a namespace. All say who they are and whom they saw.
//!
//! Each listens on IPv4 and IPv6 at once. Dropping [`Servers`] closes the listeners; connections that an echo server
//! holds live until their client closes them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket;

use crate::netns::NsHandle;

/// TCP and UDP: answers `<pod> saw <address>` and, for TCP, closes. UDP's answer is as long as what was asked.
pub const WHO: u16 = 9000;
/// TCP: sends back what it gets until the client closes.
pub const ECHO: u16 = 7;
/// TCP: HTTP/1.1, one request a connection.
pub const HTTP: u16 = 8080;

/// Which server.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Who,
    Echo,
    Http,
}

/// Servers of one pod.
#[derive(Debug)]
pub struct Servers {
    pod: Arc<str>,
    ns: NsHandle,
    stop: Arc<AtomicBool>,
    listeners: Vec<Arc<TcpListener>>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Starts the usual ones: [`WHO`], [`ECHO`] and [`HTTP`].
    pub fn start(pod: &str, ns: &NsHandle) -> Result<Self> {
        let mut servers = Self::none(pod, ns);
        servers.listen(WHO, Kind::Who)?;
        servers.listen(ECHO, Kind::Echo)?;
        servers.listen(HTTP, Kind::Http)?;
        servers.serve_udp(WHO)?;
        Ok(servers)
    }

    /// Starts nothing yet.
    pub fn none(pod: &str, ns: &NsHandle) -> Self {
        Self { pod: pod.into(), ns: ns.clone(), stop: Arc::default(), listeners: Vec::new(), threads: Vec::new() }
    }

    /// Answers who it is on one more TCP port.
    pub fn serve_tcp(&mut self, port: u16) -> Result<()> {
        self.listen(port, Kind::Who)
    }

    /// Answers who it is on one more UDP port.
    pub fn serve_udp(&mut self, port: u16) -> Result<()> {
        self.serve_udp_at(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
    }

    /// The same at one address. A host with several would answer from the one that is nearest to the client otherwise, and
    /// not from the one that was asked.
    pub fn serve_udp_at(&mut self, address: SocketAddr) -> Result<()> {
        let socket = self
            .ns
            .run(|| UdpSocket::bind(address))?
            .with_context(|| format!("{} cannot listen on UDP {address}", self.pod))?;
        // Wakes up now and then to see whether it is to stop: nothing else ends recv on an unconnected socket.
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (pod, stop) = (Arc::clone(&self.pod), Arc::clone(&self.stop));
        self.threads.push(thread::spawn(move || {
            let mut buffer = vec![0u8; 65536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    // As long as the question, if that was longer.
                    let mut answer = answer(&pod, peer).into_bytes();
                    answer.resize(length.max(answer.len()), b' ');
                    // A client that is gone is not the server's concern.
                    let _ = socket.send_to(&answer, peer);
                }
            }
        }));
        Ok(())
    }

    /// Answers who it is to those who connect to a socket of this pod's namespace, whatever its protocol.
    pub fn serve_listener(&mut self, listener: TcpListener) {
        self.accept(listener, Kind::Who);
    }

    fn listen(&mut self, port: u16, kind: Kind) -> Result<()> {
        let listener = self
            .ns
            .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?
            .with_context(|| format!("{} cannot listen on TCP port {port}", self.pod))?;
        self.accept(listener, kind);
        Ok(())
    }

    fn accept(&mut self, listener: TcpListener, kind: Kind) {
        let listener = Arc::new(listener);
        self.listeners.push(Arc::clone(&listener));
        let (pod, stop) = (Arc::clone(&self.pod), Arc::clone(&self.stop));
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Ok((stream, peer)) = listener.accept() {
                    serve(kind, &pod, stream, peer);
                }
            }
        }));
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // On Linux this ends a waiting accept.
            let _ = socket::shutdown(listener.as_raw_fd(), socket::Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// An IPv4 peer of a socket that serves both families shows as a mapped address.
fn answer(pod: &str, peer: SocketAddr) -> String {
    let address: IpAddr = peer.ip().to_canonical();
    format!("{pod} saw {address}\n")
}

fn serve(kind: Kind, pod: &Arc<str>, mut stream: TcpStream, peer: SocketAddr) {
    // What goes wrong here is the client's to report: it sees a connection that ends early.
    match kind {
        Kind::Who => {
            let _ = stream.write_all(answer(pod, peer).as_bytes());
        }
        Kind::Echo => drop(thread::spawn(move || echo(stream))),
        Kind::Http => {
            let pod = Arc::clone(pod);
            thread::spawn(move || http(&mut stream, &answer(&pod, peer)));
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(buffer.get(..length).unwrap_or_default())?;
    }
}

fn http(stream: &mut TcpStream, body: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
