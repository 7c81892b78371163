//! Clients with time-outs, for the calling thread's network namespace.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;

/// Longer than any answer takes in a lab, retransmissions of a lost first packet included.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// Longer than a stream stands still while TCP finds a smaller path MTU: each packet that is too big costs a
/// retransmission, later each time.
const STREAM_PATIENCE: Duration = Duration::from_secs(20);

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name of the pod that answered.
    pub pod: String,
    /// The client's address as the pod saw it.
    pub seen: IpAddr,
}

impl Answer {
    /// Reads `<pod> saw <address>`.
    pub fn parse(text: &str) -> io::Result<Self> {
        let mut words = text.split_whitespace();
        match (words.next(), words.next(), words.next().map(str::parse)) {
            (Some(pod), Some("saw"), Some(Ok(seen))) => Ok(Self { pod: pod.into(), seen }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("not an answer: {text:?}"))),
        }
    }
}

/// Connects, with time-outs on everything that follows.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connects within a time of one's own choice and says nothing: for tests that expect no answer.
pub fn knock(to: SocketAddr, patience: Duration) -> io::Result<()> {
    TcpStream::connect_timeout(&to, patience).map(drop)
}

/// Connects and reads who is there.
pub fn ask_tcp(to: SocketAddr) -> io::Result<Answer> {
    let mut text = String::new();
    connect(to)?.read_to_string(&mut text)?;
    Answer::parse(&text)
}

/// Connects and reads who is there, within a time of one's own choice for each.
pub fn ask_tcp_within(to: SocketAddr, patience: Duration) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Answer::parse(&text)
}

/// Asks over HTTP/1.1 who is there.
pub fn ask_http(to: SocketAddr) -> io::Result<Answer> {
    let mut stream = connect(to)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Answer::parse(body),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP 200: {text:?}"))),
    }
}

/// A UDP socket on any port, connected.
pub fn connect_udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { [0u8; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Asks with one datagram who is there.
pub fn ask_udp(to: SocketAddr) -> io::Result<Answer> {
    ask_again(&connect_udp(to)?)
}

/// Asks with one datagram from a socket that is already connected.
pub fn ask_again(socket: &UdpSocket) -> io::Result<Answer> {
    socket.send(b"who")?;
    let mut buffer = [0u8; 256];
    let length = socket.recv(&mut buffer)?;
    Answer::parse(&String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()))
}

/// Asks with one datagram of `size` bytes. Gives the length of the answer, too.
pub fn ask_udp_at_length(to: SocketAddr, size: usize) -> io::Result<(Answer, usize)> {
    let socket = connect_udp(to)?;
    socket.send(&vec![b'?'; size])?;
    receive(&socket)
}

/// Asks with `count` datagrams of `size` bytes that leave the socket as one packet (UDP_SEGMENT, udp(7)): who cuts it is
/// the device, or the kernel before a device that cannot.
pub fn ask_in_segments(to: SocketAddr, size: u16, count: usize) -> io::Result<Vec<(Answer, usize)>> {
    let socket = connect_udp(to)?;
    set_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, libc::c_int::from(size))?;
    socket.send(&vec![b'?'; usize::from(size) * count])?;
    (0..count).map(|_| receive(&socket)).collect()
}

/// Receives an answer. Gives its length, too.
pub fn receive(socket: &UdpSocket) -> io::Result<(Answer, usize)> {
    let mut buffer = vec![0u8; 65536];
    let length = socket.recv(&mut buffer)?;
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
    Ok((Answer::parse(&text)?, length))
}

/// A reproducible stream of bytes: both ends of a comparison make it anew.
#[derive(Clone, Debug)]
struct Pattern(u64);

impl Pattern {
    const START: Self = Self(0x9e37_79b9_7f4a_7c15);

    fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_mut(8) {
            // Marsaglia's xorshift64.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let bytes = self.0.to_le_bytes();
            word.copy_from_slice(bytes.get(..word.len()).unwrap_or_default());
        }
    }
}

/// Sends `bytes` to an echo server and checks every byte that comes back, both ways at once.
pub fn stream(to: SocketAddr, bytes: u64) -> io::Result<Duration> {
    const BLOCK: usize = 64 * 1024;
    let started = Instant::now();
    let stream = connect(to)?;
    stream.set_read_timeout(Some(STREAM_PATIENCE))?;
    stream.set_write_timeout(Some(STREAM_PATIENCE))?;
    let mut sender = stream.try_clone()?;
    let blocks = bytes.div_ceil(BLOCK as u64);
    let sending = thread::spawn(move || -> io::Result<()> {
        let (mut pattern, mut block) = (Pattern::START, vec![0u8; BLOCK]);
        for _ in 0..blocks {
            pattern.fill(&mut block);
            sender.write_all(&block)?;
        }
        sender.shutdown(Shutdown::Write)
    });
    let (mut pattern, mut expected, mut block) = (Pattern::START, vec![0u8; BLOCK], vec![0u8; BLOCK]);
    let mut stream = stream;
    for number in 0..blocks {
        pattern.fill(&mut expected);
        stream.read_exact(&mut block).map_err(|error| {
            io::Error::new(error.kind(), format!("after {} of {blocks} blocks of 64 KiB: {error}", number))
        })?;
        if block != expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("block {number} came back altered")));
        }
    }
    if stream.read(&mut block)? != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more came back than was sent"));
    }
    sending.join().map_err(|_| io::Error::other("the sender panicked"))??;
    Ok(started.elapsed())
}

/// What became of many short connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Burst {
    /// Answers by pod.
    pub answered: BTreeMap<String, usize>,
    /// Failures by error.
    pub failed: BTreeMap<String, usize>,
}

impl Burst {
    /// All answers.
    pub fn total(&self) -> usize {
        self.answered.values().sum()
    }

    /// Counts one more result.
    pub fn count(&mut self, result: &io::Result<Answer>) {
        match result {
            Ok(answer) => *self.answered.entry(answer.pod.clone()).or_default() += 1,
            Err(error) => *self.failed.entry(describe(error)).or_default() += 1,
        }
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: Self) {
        for (pod, count) in other.answered {
            *self.answered.entry(pod).or_default() += count;
        }
        for (error, count) in other.failed {
            *self.failed.entry(error).or_default() += count;
        }
    }
}

/// An error by the name of its errno, where it has one.
pub fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => format!("{:?}", error.kind()),
    }
}

/// Asks `count` times over TCP from `threads` threads of the calling thread's namespace. A thread gives up after ten
/// failures: each may take seconds.
pub fn burst(to: SocketAddr, threads: usize, count: usize) -> Burst {
    let share = |thread: usize| count * (thread + 1) / threads - count * thread / threads;
    let mut sum = Burst::default();
    thread::scope(|scope| {
        let work = |share: usize| {
            move || {
                let mut burst = Burst::default();
                for _ in 0..share {
                    burst.count(&ask_tcp(to));
                    if burst.failed.values().sum::<usize>() >= 10 {
                        break;
                    }
                }
                burst
            }
        };
        // A new thread is born in the namespace of the one that made it.
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(work(share(thread)))).collect();
        for thread in running {
            sum.add(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    sum
}

/// Makes a UDP socket refuse to fragment, as programs do that discover the path's MTU by themselves.
pub fn never_fragment(socket: &UdpSocket) -> io::Result<()> {
    let (level, name, value) = if socket.local_addr()?.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    };
    set_option(socket, level, name, value)
}

/// Sets a socket's option that is a number.
pub fn set_option(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set_bytes(socket, level, name, &value.to_ne_bytes())
}

fn set_bytes(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: &[u8]) -> io::Result<()> {
    let size = libc::socklen_t::try_from(value.len()).unwrap_or_default();
    // SAFETY: the kernel reads the option's bytes; their address and number are given.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), size) };
    Errno::result(result)?;
    Ok(())
}

/// An extension header that the kernel puts into each packet of an IPv6 socket (RFC 3542 §8 and §9).
#[derive(Clone, Copy, Debug)]
pub enum HeaderOption {
    /// Hop-by-hop options.
    HopByHop,
    /// Destination options.
    Destination,
}

impl HeaderOption {
    /// Has a socket send it, with nothing in it but padding.
    pub fn set(self, socket: &impl AsRawFd) -> io::Result<()> {
        let name = match self {
            Self::HopByHop => libc::IPV6_HOPOPTS,
            Self::Destination => libc::IPV6_DSTOPTS,
        };
        // The next header is the kernel's to fill in; PadN of 4 bytes.
        set_bytes(socket, libc::IPPROTO_IPV6, name, &[0, 0, 1, 4, 0, 0, 0, 0])
    }
}

/// The path MTU that the kernel knows for a connected socket.
pub fn path_mtu(socket: &impl AsRawFd, family: crate::lab::Family) -> io::Result<i32> {
    let (level, name) = match family {
        crate::lab::Family::V4 => (libc::IPPROTO_IP, libc::IP_MTU),
        crate::lab::Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut value: libc::c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    // SAFETY: the option gives an int; room for one and its size are given.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size) };
    Errno::result(result)?;
    Ok(value)
}
