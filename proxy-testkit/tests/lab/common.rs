//! What scenarios share: the standard lab, turns, and sentences that many of them need.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use proxy_testkit::Lab;
use proxy_testkit::lab::{Host, Protocol};
use proxy_testkit::manifest::Service;
use proxy_testkit::server::{ECHO, HTTP, WHO};

/// One test at a time: they share two cores and count packets.
static TURN: Mutex<()> = Mutex::new(());
/// The standard lab, made by the first test that wants it, removed at exit.
static STANDARD: OnceLock<Mutex<Lab>> = OnceLock::new();

/// A test's turn. Prints the end of the agents' logs where the test fails.
pub struct Turn<T: Deref<Target = Lab>> {
    lab: T,
    _turn: MutexGuard<'static, ()>,
}

/// The standard lab, shared.
pub fn standard() -> Turn<MutexGuard<'static, Lab>> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = STANDARD.get_or_init(|| Mutex::new(Lab::standard().unwrap()));
    Turn { lab: lab.lock().unwrap_or_else(PoisonError::into_inner), _turn: turn }
}

/// A lab for one test alone.
pub fn alone(make: impl FnOnce() -> anyhow::Result<Lab>) -> Turn<Box<Lab>> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Turn { lab: Box::new(make().unwrap()), _turn: turn }
}

impl<T: Deref<Target = Lab>> Deref for Turn<T> {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl<T: DerefMut<Target = Lab>> DerefMut for Turn<T> {
    fn deref_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }
}

impl<T: Deref<Target = Lab>> Drop for Turn<T> {
    fn drop(&mut self) {
        if thread::panicking() {
            for agent in self.lab.agents() {
                let log = agent.log();
                let lines: Vec<_> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(15)..].iter().map(|line| line.get(..300).unwrap_or(line));
                eprintln!("the end of {}'s log:\n{}", agent.node(), end.collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

/// The ports of [`usual`].
pub const TCP: u16 = 80;
pub const UDP: u16 = 53;
pub const WEB: u16 = 8080;
pub const STREAM: u16 = 7777;

/// A Service with a port for each server that pods run.
pub fn usual<'a>(name: &str, number: u8, backends: impl IntoIterator<Item = &'a Host>) -> Service {
    Service::new(name, number)
        .port(Protocol::Tcp, TCP, WHO)
        .port(Protocol::Udp, UDP, WHO)
        .port(Protocol::Tcp, WEB, HTTP)
        .port(Protocol::Tcp, STREAM, ECHO)
        .backends(backends)
}

/// The port of [`usual`] that tells who is there.
pub fn who(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

/// How often each pod answered.
pub fn tally<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut tally = BTreeMap::new();
    for name in names {
        *tally.entry(name).or_default() += 1;
    }
    tally
}
