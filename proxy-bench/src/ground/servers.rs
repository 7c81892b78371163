//! Servers that swallow what they get: for throughput and for packets a second.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{Shutdown, shutdown};
use proxy_testkit::netns::NsHandle;

/// TCP: reads until the client closes.
pub const SINK: u16 = 9001;
/// UDP: counts.
pub const COUNT: u16 = 9002;

/// Both, until dropped.
pub struct Sinks {
    stop: Arc<AtomicBool>,
    listener: Arc<TcpListener>,
    datagrams: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Sinks {
    /// Starts them in a namespace.
    pub(super) fn start(ns: &NsHandle) -> Result<Self> {
        let listener = ns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, SINK)))?.context("listening")?;
        let socket = ns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, COUNT)))?.context("listening")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (stop, datagrams) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let listener = Arc::new(listener);
        let mut threads = Vec::new();
        let (over, count) = (Arc::clone(&stop), Arc::clone(&datagrams));
        threads.push(thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !over.load(Ordering::Relaxed) {
                if socket.recv(&mut buffer).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
        let (over, accepting) = (Arc::clone(&stop), Arc::clone(&listener));
        threads.push(thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Ok((mut stream, _)) = accepting.accept() {
                    thread::spawn(move || {
                        let mut buffer = vec![0; 256 * 1024];
                        while matches!(stream.read(&mut buffer), Ok(1..)) {}
                    });
                }
            }
        }));
        Ok(Self { stop, listener, datagrams, threads })
    }

    /// How many datagrams have come.
    pub(super) fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // On Linux this ends a waiting accept.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
