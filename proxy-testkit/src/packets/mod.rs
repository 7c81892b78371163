//! One table of packets, run by every executor: the host's core, tc and XDP.
//!
//! A [`Scenario`] is a sentence and a few [`Step`]s; a step is one packet that meets one hook, and what becomes of
//! it, byte for byte. Flows that a step opens are there for the next.

mod build;
mod flows;
pub mod fuzz;
mod host;
mod table;
mod uplink;
mod world;

pub use build::{
    Flags, echo, fragments, icmp_error, put, redirect, redirect_v6, sctp, tcp, tcp_with_options, udp,
    udp_without_checksum, with_checksums, with_extensions,
};
pub use flows::HostFlows;
pub use host::{HostEnv, HostExecutor, HostPacket};
pub use table::{onward, scenarios};
pub use uplink::WIDTH;
pub use world::{LOCAL_NODE_PORT, NODE, Places, Tables, World};

use anyhow::{Context, Result, ensure};
use proxy_common::flows::MASQUERADE_PORTS;
use proxy_common::maps::{DetectLocal, DeviceRole};

/// A sentence about the datapath, and the packets that show it.
pub struct Scenario {
    /// What is shown.
    pub name: String,
    /// The packets, in their order.
    pub steps: Vec<Step>,
}

/// One packet at one hook.
pub struct Step {
    /// What this packet shows.
    pub what: &'static str,
    /// The hook that it meets.
    pub hook: Hook,
    /// The device that it is on.
    pub via: Via,
    /// The packet, from its IP header on; given the masquerade port that was seen last.
    pub packet: Box<dyn Fn(u16) -> Vec<u8>>,
    /// What is to become of it.
    pub expect: Expect,
}

/// The device that a packet is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A pod's, which tells that its clients are pods of this node.
    Pod,
    /// An uplink.
    Uplink,
    /// An uplink where addresses tell pods of this node from others, as with detectLocalMode ClusterCIDR.
    UplinkByAddress,
}

impl Via {
    /// The device's role.
    pub const fn role(self) -> DeviceRole {
        match self {
            Self::Pod => DeviceRole::Pod,
            Self::Uplink | Self::UplinkByAddress => DeviceRole::Uplink,
        }
    }

    /// How it tells pods of this node.
    pub const fn detect(self) -> DetectLocal {
        match self {
            Self::Pod => DetectLocal::Yes,
            Self::Uplink => DetectLocal::No,
            Self::UplinkByAddress => DetectLocal::ByAddress,
        }
    }
}

/// Where a packet meets the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// It comes in from a device.
    Ingress,
    /// It leaves through a device.
    Egress,
    /// It comes in from an uplink by which packets are sent on: by XDP, or by tc if that leaves it alone.
    Onward,
}

/// What is to become of a packet.
pub enum Expect {
    /// It goes on as it came.
    Untouched,
    /// It goes on as this; given the masquerade port that was seen last.
    Becomes(Box<dyn Fn(u16) -> Vec<u8>>),
    /// It goes on as this, given the masquerade port that it has itself, which is in the range.
    Masqueraded(Box<dyn Fn(u16) -> Vec<u8>>),
    /// It is sent on as this, past the stack; given the masquerade port that was seen last.
    SentOn(Box<dyn Fn(u16) -> Vec<u8>>),
    /// It is sent on as this, given the masquerade port that it has itself, which is in the range.
    SentOnMasqueraded(Box<dyn Fn(u16) -> Vec<u8>>),
    /// It goes back as this.
    Reply(Vec<u8>),
    /// It is dropped.
    Drop,
}

/// What a hook did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It goes on.
    Pass(Vec<u8>),
    /// It was sent on, past the stack.
    SentOn(Vec<u8>),
    /// It goes back where it came from.
    Reply(Vec<u8>),
    /// It was dropped.
    Drop,
}

/// Something that runs the datapath.
pub trait Executor {
    /// Fills empty maps with the world's entries; nothing of the scenario before is left.
    fn reset(&mut self, world: &World) -> Result<()>;

    /// Sends one packet, from its IP header on, through a hook.
    fn run(&mut self, hook: Hook, via: Via, packet: &[u8]) -> Result<Done>;
}

/// Runs one scenario from empty flows on.
pub fn run(scenario: &Scenario, executor: &mut impl Executor) -> Result<()> {
    executor.reset(&World::new())?;
    let mut port = 0;
    for (number, step) in scenario.steps.iter().enumerate() {
        let place = || format!("{}: packet {} ({})", scenario.name, number + 1, step.what);
        let packet = (step.packet)(port);
        let done = executor.run(step.hook, step.via, &packet).with_context(place)?;
        check(step, &packet, &done, &mut port).with_context(place)?;
    }
    Ok(())
}

fn check(step: &Step, sent: &[u8], done: &Done, port: &mut u16) -> Result<()> {
    match (&step.expect, done) {
        (Expect::Untouched, Done::Pass(seen)) => same(sent, seen),
        (Expect::Becomes(expected), Done::Pass(seen)) => same(&expected(*port), seen),
        (Expect::SentOn(expected), Done::SentOn(seen)) => same(&expected(*port), seen),
        (Expect::Masqueraded(expected), Done::Pass(seen))
        | (Expect::SentOnMasqueraded(expected), Done::SentOn(seen)) => {
            let header = if seen.first().is_some_and(|byte| byte >> 4 == 4) { 20 } else { 40 };
            let source: [u8; 2] = seen.get(header..header + 2).context("no source port")?.try_into()?;
            *port = u16::from_be_bytes(source);
            ensure!(MASQUERADE_PORTS.contains(port), "source port {port} is not of the masquerade range");
            same(&expected(*port), seen)
        }
        (Expect::Reply(expected), Done::Reply(seen)) => same(expected, seen),
        (Expect::Drop, Done::Drop) => Ok(()),
        (Expect::Untouched | Expect::Becomes(_) | Expect::Masqueraded(_), other) => {
            anyhow::bail!("expected to go on, was {other:02x?}")
        }
        (Expect::SentOn(_) | Expect::SentOnMasqueraded(_), other) => {
            anyhow::bail!("expected to be sent on, was {other:02x?}")
        }
        (Expect::Reply(_), other) => anyhow::bail!("expected a reply, was {other:02x?}"),
        (Expect::Drop, other) => anyhow::bail!("expected to be dropped, was {other:02x?}"),
    }
}

fn same(expected: &[u8], seen: &[u8]) -> Result<()> {
    ensure!(expected == seen, "expected\n  {expected:02x?}\nseen\n  {seen:02x?}");
    Ok(())
}
