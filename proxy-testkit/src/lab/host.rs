//! One machine of the lab, as its users see it: a name, a namespace and an address of each family.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::cgroup::CgroupHandle;
use crate::client::{self, Answer, Burst};
use crate::netns::NsHandle;
use crate::shell;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, for scenarios that run in each.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Both protocols, for scenarios that run with each.
    pub const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// A pod, a node or a client outside.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name, which its servers answer with.
    pub name: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Its network namespace.
    pub ns: NsHandle,
    /// A node's control group, which its agent attaches to: what runs [inside](Self::inside) is a process of the host.
    pub cgroup: Option<CgroupHandle>,
}

impl Host {
    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// An address and port of it.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    /// Whether an address is its.
    pub fn has(&self, address: IpAddr) -> bool {
        self.ip(Family::of(address)) == address
    }

    /// Asks who is there: one connection, or one datagram from a connected socket.
    pub fn ask(&self, protocol: Protocol, to: SocketAddr) -> io::Result<Answer> {
        self.inside(|| match protocol {
            Protocol::Tcp => client::ask_tcp(to),
            Protocol::Udp => client::ask_udp(to),
        })
    }

    /// Asks `count` times, one after the other, each time from a new socket.
    pub fn ask_many(&self, protocol: Protocol, to: SocketAddr, count: usize) -> io::Result<Vec<Answer>> {
        self.inside(|| {
            let ask = || match protocol {
                Protocol::Tcp => client::ask_tcp(to),
                Protocol::Udp => client::ask_udp(to),
            };
            (0..count).map(|_| ask()).collect()
        })
    }

    /// Asks over HTTP.
    pub fn get(&self, to: SocketAddr) -> io::Result<Answer> {
        self.inside(|| client::ask_http(to))
    }

    /// Sends `bytes` to an echo server and compares what comes back. Gives the time taken.
    pub fn stream(&self, to: SocketAddr, bytes: u64) -> io::Result<Duration> {
        self.inside(|| client::stream(to, bytes))
    }

    /// Asks `count` times over TCP from `threads` threads and counts what happened.
    pub fn burst(&self, to: SocketAddr, threads: usize, count: usize) -> io::Result<Burst> {
        self.inside(|| Ok(client::burst(to, threads, count)))
    }

    /// Sends one ping and waits for its answer.
    pub fn ping(&self, to: IpAddr) -> Result<()> {
        shell::run(self.command("ping").args(["-n", "-c", "1", "-W", "2", &to.to_string()]))?;
        Ok(())
    }

    /// Runs code inside, for errors of sockets.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let inside = || {
            // Sockets belong to the group that the thread is in when it makes them.
            self.cgroup.as_ref().map_or(Ok(()), CgroupHandle::enter)?;
            work()
        };
        self.ns.run(inside).map_err(io::Error::other)?
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.ns.command(program);
        if let Some(cgroup) = &self.cgroup {
            cgroup.put(&mut command);
        }
        command
    }
}
