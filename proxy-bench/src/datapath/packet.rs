//! Packets, and what the kernel's side has to know to make them again.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use etherparse::PacketBuilder;
use proxy_bench_ebpf::{FRAME_ENDS, FlowTuple, Numbered, Plan};
use proxy_common::addr::Address;
use proxy_common::datapath::checksum::Delta;
use proxy_common::maps::{TCP, UDP};

/// Bytes in an Ethernet header.
const ETHERNET: usize = 14;
/// The packets' payload: some, and no more than the programs could find at once in a real buffer.
const PAYLOAD: [u8; 64] = [0x5a; 64];
const HOP_LIMIT: u8 = 64;
const SEQUENCE: u32 = 0x0102_0304;

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    /// Its name in the figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The flags of a TCP packet; UDP has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    /// The first packet of a client.
    Syn,
    /// The first answer.
    SynAck,
    /// Any later packet.
    Ack,
}

/// A whole packet, from its Ethernet header on.
pub fn packet(from: SocketAddr, to: SocketAddr, protocol: Protocol, flags: Flags) -> Result<Vec<u8>> {
    let [destination, source] = FRAME_ENDS;
    let ethernet = PacketBuilder::ethernet2(source, destination);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), HOP_LIMIT),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), HOP_LIMIT),
        _ => bail!("a packet from {from} to {to} has two families"),
    };
    let mut packet = Vec::new();
    match protocol {
        Protocol::Tcp => {
            let tcp = ip.tcp(from.port(), to.port(), SEQUENCE, 64_000);
            let tcp = match flags {
                Flags::Syn => tcp.syn(),
                Flags::SynAck => tcp.syn().ack(SEQUENCE),
                Flags::Ack => tcp.ack(SEQUENCE),
            };
            tcp.write(&mut packet, &PAYLOAD)
        }
        Protocol::Udp => ip.udp(from.port(), to.port()).write(&mut packet, &PAYLOAD),
    }
    .context("making a packet")?;
    Ok(packet)
}

/// Notes in a plan what is the same in all packets of a kind, of which one is given.
pub fn teach<A: Address>(plan: &mut Plan, packet: &[u8], protocol: Protocol) -> Result<()> {
    let short = || format!("a packet of {} bytes is too short", packet.len());
    let header = packet.get(ETHERNET..ETHERNET + A::HEADER).with_context(short)?;
    let transport = packet.get(ETHERNET + A::HEADER..).with_context(short)?;
    let word = |bytes: &[u8], at: usize| -> [u8; 2] {
        [bytes.get(at).copied().unwrap_or(0), bytes.get(at + 1).copied().unwrap_or(0)]
    };

    let mut sum = Delta::default();
    let addresses = A::SRC..A::DST + A::LEN;
    for at in (0..A::HEADER).step_by(2) {
        if Some(at) != A::HEADER_CHECKSUM && !addresses.contains(&at) {
            sum.add(word(header, at));
        }
    }
    plan.header_sum = sum.folded();

    let checksum = match protocol {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
    };
    let mut sum = Delta::default();
    sum.add([0, protocol.number()]);
    sum.add(u16::try_from(transport.len()).context("a packet is too long")?.to_be_bytes());
    for at in (4..transport.len()).step_by(2) {
        if at != checksum {
            sum.add(word(transport, at));
        }
    }
    plan.transport_sum = sum.folded();

    plan.ttl_proto = [HOP_LIMIT, protocol.number()];
    plan.transport_head = transport.get(4..8).with_context(short)?.try_into()?;
    plan.tcp_tail = transport.get(12..20).with_context(short)?.try_into()?;
    let [.., a, b, _, _] = &mut plan.tcp_tail;
    (*a, *b) = (0, 0);
    Ok(())
}

/// Both ends of a flow: the client's and the other.
pub fn ends<A: Numbered>(tuple: &FlowTuple<A>) -> (SocketAddr, SocketAddr) {
    let end = |address: A, port| SocketAddr::new(ip(address), u16::from_be_bytes(port));
    (end(tuple.near, tuple.near_port), end(tuple.far, tuple.far_port))
}

/// An address as the standard library has it.
fn ip<A: Address>(address: A) -> IpAddr {
    let bytes = bytemuck::bytes_of(&address);
    let short: Result<[u8; 4], _> = bytes.try_into();
    let long: Result<[u8; 16], _> = bytes.try_into();
    match (short, long) {
        (Ok(bytes), _) => bytes.into(),
        (_, Ok(bytes)) => bytes.into(),
        // No family has other lengths.
        _ => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    }
}
