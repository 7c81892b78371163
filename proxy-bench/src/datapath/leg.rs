//! One program on its way: which packets it gets and what is to become of them.

use anyhow::{Result, ensure};
use proxy_bench_ebpf::{FlowTuple, Order, Plan};

use super::bed::Counts;
use super::harness::{NEXT, Target, Traffic};
use super::packet::{Flags, Protocol, ends, packet, teach};
use super::world::{Party, SERVICES, Side};

/// Packets of one kind at one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// The first packet of a client comes in, for a Service.
    Open,
    /// Another packet of its client.
    Request,
    /// The first answer of the backend leaves.
    Answer,
    /// Another packet of the backend.
    Reply,
    /// A packet for nobody's Service comes in.
    StrangerIn,
    /// A packet for nobody's Service leaves.
    StrangerOut,
}

impl Leg {
    /// The program that gets the packets.
    pub const fn target(self) -> Target {
        match self {
            Self::Open | Self::Request | Self::StrangerIn => Target::TcIn,
            Self::Answer | Self::Reply | Self::StrangerOut => Target::TcOut,
        }
    }

    /// What each packet counts, but for new flows.
    pub fn counts(self) -> Counts {
        match self {
            Self::Open | Self::Request => Counts { packets: 1, ..Counts::default() },
            Self::Answer | Self::Reply => Counts { replies: 1, ..Counts::default() },
            Self::StrangerIn | Self::StrangerOut => Counts::default(),
        }
    }

    /// Whether the client sends the packets.
    const fn is_request(self) -> bool {
        !matches!(self, Self::Answer | Self::Reply)
    }

    const fn flags(self) -> Flags {
        match self {
            Self::Open => Flags::Syn,
            Self::Answer => Flags::SynAck,
            Self::Request | Self::Reply | Self::StrangerIn | Self::StrangerOut => Flags::Ack,
        }
    }

    /// Who sends requests, and gets replies.
    const fn near(self) -> Party {
        match self {
            Self::Open | Self::Request | Self::Answer | Self::Reply => Party::Clients,
            Self::StrangerIn | Self::StrangerOut => Party::Bystanders,
        }
    }

    /// Whom the client's packets are for, or whom the replies come from: before and after.
    const fn far(self) -> (Party, Party) {
        match self {
            Self::Open | Self::Request => (Party::Frontends, Party::Backends),
            Self::Answer | Self::Reply => (Party::Backends, Party::Frontends),
            Self::StrangerIn | Self::StrangerOut => (Party::Strangers, Party::Strangers),
        }
    }

    /// The packets, in some order.
    pub fn traffic<A: Side>(self, protocol: Protocol, order: Order) -> Result<Traffic> {
        let (before, _) = self.far();
        let mut plan = plan::<A>(self.near(), before, order);
        let packet = self.packet::<A>(&plan, 0, protocol)?;
        teach::<A>(&mut plan, &packet, protocol)?;
        let restorer = if self.is_request() { A::REQUEST } else { A::REPLY };
        Ok(Traffic { restorer, plan, packet, device: None, answer: NEXT })
    }

    /// Compares what became of the last packet of the traffic with what should have.
    pub fn check<A: Side>(self, traffic: &Traffic, protocol: Protocol, seen: &[u8]) -> Result<()> {
        let (_, after) = self.far();
        let plan = plan::<A>(self.near(), after, traffic.plan.order);
        let expected = self.packet::<A>(&plan, traffic.plan.last, protocol)?;
        ensure!(
            expected == seen,
            "{self:?}, flow {}: the packet is not as it should be: expected\n  {expected:02x?}\nseen\n  {seen:02x?}",
            traffic.plan.last
        );
        Ok(())
    }

    /// Addresses and ports of the last packet of the traffic, as they should be after.
    pub fn after<A: Side>(self, traffic: &Traffic) -> FlowTuple<A> {
        let (_, after) = self.far();
        plan::<A>(self.near(), after, traffic.plan.order).tuple::<A>(traffic.plan.last)
    }

    fn packet<A: Side>(self, plan: &Plan, number: u32, protocol: Protocol) -> Result<Vec<u8>> {
        let (near, far) = ends(&plan.tuple::<A>(number));
        let (from, to) = if self.is_request() { (near, far) } else { (far, near) };
        packet(from, to, protocol, self.flags())
    }
}

fn plan<A: Side>(near: Party, far: Party, order: Order) -> Plan {
    Plan {
        order,
        spread: SERVICES - 1,
        near: A::base(near),
        far: A::base(far),
        far_port: far.port(),
        ..bytemuck::Zeroable::zeroed()
    }
}
