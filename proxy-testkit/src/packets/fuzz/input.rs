//! Bytes to packets: mostly right ones, so that something comes of them, then perhaps damaged.

use std::net::{IpAddr, SocketAddr};

use arbitrary::{Result, Unstructured};

use super::super::world::{LOCAL_NODE_PORT, Places, REMOTE_NODE_PORT};
use super::super::{
    Hook, Via, fragments, icmp_error, tcp, tcp_with_options, udp, udp_without_checksum, with_extensions,
};

/// A packet and where it is met.
pub struct Sent {
    pub hook: Hook,
    pub via: Via,
    pub bytes: Vec<u8>,
}

impl Sent {
    /// The next packet.
    pub fn make(source: &mut Unstructured<'_>) -> Result<Self> {
        let hook = if source.ratio(2, 3)? { Hook::Ingress } else { Hook::Egress };
        let via = if source.arbitrary()? { Via::Pod } else { Via::Uplink };
        let is_v4 = source.arbitrary()?;
        let places = if is_v4 { Places::v4() } else { Places::v6() };
        let mut bytes = transport(source, &places)?;
        match source.int_in_range(0..=7_u8)? {
            0 => bytes = piece(source, &bytes)?,
            1 if !is_v4 => bytes = extended(source, &bytes)?,
            2 => bytes = error(source, &places, &bytes)?,
            3 if !is_v4 => {
                let about = extended(source, &bytes)?;
                bytes = error(source, &places, &about)?;
                bytes = extended(source, &bytes)?;
            }
            4 => {
                let about = piece(source, &bytes)?;
                bytes = error(source, &places, &about)?;
            }
            _ => {}
        }
        for _ in 0..source.int_in_range(0..=3_u8)?.saturating_sub(1) {
            let at = usize::from(source.arbitrary::<u8>()?);
            let value = source.arbitrary()?;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        match source.int_in_range(0..=15_u8)? {
            0 => bytes.truncate(usize::from(source.arbitrary::<u8>()?)),
            1 => bytes.extend(std::iter::repeat_n(0, source.int_in_range(0..=18)?)),
            _ => {}
        }
        Ok(Self { hook, via, bytes })
    }
}

fn address(source: &mut Unstructured<'_>, places: &Places) -> Result<IpAddr> {
    source
        .choose(&[
            places.pod,
            places.neighbour,
            places.remote,
            places.outside,
            places.node,
            places.to_remote,
            places.to_neighbour,
            places.to_self,
            places.also_to_remote,
            places.to_nobody,
            places.local_only,
            places.guarded,
        ])
        .copied()
}

fn port(source: &mut Unstructured<'_>) -> Result<u16> {
    let known = [80, 8080, REMOTE_NODE_PORT, LOCAL_NODE_PORT, 40_000, 40_001, 2_000];
    if source.ratio(7, 8)? { source.choose(&known).copied() } else { source.arbitrary() }
}

fn transport(source: &mut Unstructured<'_>, places: &Places) -> Result<Vec<u8>> {
    let from = SocketAddr::new(address(source, places)?, port(source)?);
    let to = SocketAddr::new(address(source, places)?, port(source)?);
    let length = usize::from(source.arbitrary::<u8>()?);
    let payload: Vec<u8> = (0..length).map(|byte| u8::try_from(byte).unwrap_or(0)).collect();
    let flags = *source.choose(&["S", "SA", "A", "PA", "FA", "R", "RA"])?;
    Ok(match source.int_in_range(0..=4_u8)? {
        0 | 1 => tcp(from, to, flags, &payload),
        2 if from.is_ipv4() => {
            let words = source.int_in_range(0..=10_usize)?;
            tcp_with_options(from, to, flags, &payload, &vec![1; 4 * words])
        }
        3 if from.is_ipv4() => udp_without_checksum(from, to, &payload),
        _ => udp(from, to, &payload),
    })
}

fn piece(source: &mut Unstructured<'_>, packet: &[u8]) -> Result<Vec<u8>> {
    let length = 8 * source.int_in_range(1..=8_usize)?;
    let pieces = fragments(packet, source.int_in_range(1..=3)?, length);
    Ok(source.choose(&pieces)?.clone())
}

fn extended(source: &mut Unstructured<'_>, packet: &[u8]) -> Result<Vec<u8>> {
    let count = source.int_in_range(1..=7_usize)?;
    let chain: Result<Vec<u8>> = (0..count).map(|_| source.choose(&[0, 43, 44, 51, 60]).copied()).collect();
    Ok(with_extensions(packet, &chain?, u8::from(source.ratio(1, 8)?)))
}

fn error(source: &mut Unstructured<'_>, places: &Places, about: &[u8]) -> Result<Vec<u8>> {
    let (from, to) = (address(source, places)?, address(source, places)?);
    Ok(icmp_error(from, to, source.arbitrary()?, about, source.int_in_range(0..=120)?))
}
