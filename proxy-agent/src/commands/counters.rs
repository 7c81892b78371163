//! `proxy-agent counters`.

use std::collections::BTreeMap;

use proxy_common::maps::{DropReason, ServiceCounters};
use serde::Serialize;

use super::View;
use super::names::Owner;
use crate::kernel::{MapError, MapSet};
use crate::output::Rows;

/// What the programs counted on all CPUs together.
#[derive(Debug, Serialize)]
pub(super) struct Counters {
    /// For each Service port.
    pub services: Vec<ServiceRow>,
    /// Packets dropped, by reason.
    pub drops: Vec<DropRow>,
}

/// What was counted for one Service port.
#[derive(Debug, Serialize)]
pub(super) struct ServiceRow {
    #[serde(flatten)]
    owner: Owner,
    /// `spec.ports[].port`.
    port: u16,
    protocol: String,
    /// 4 or 6.
    family: u8,
    flows: u64,
    packets: u64,
    bytes: u64,
    reply_packets: u64,
    reply_bytes: u64,
    refused: u64,
    without_port: u64,
}

/// How many packets were dropped for one reason.
#[derive(Debug, Serialize)]
pub(super) struct DropRow {
    reason: &'static str,
    packets: u64,
}

impl Counters {
    /// Reads them: Services sorted by name, reasons in the order of their numbers.
    pub(super) fn read(view: &View) -> Result<Self, MapError> {
        let counters = by_service(&view.maps)?;
        let mut services = Vec::new();
        for (owner, port) in view.names.ports() {
            let counted = counters.get(&owner.service_id).copied().unwrap_or_default();
            let ServiceCounters { flows, packets, bytes, reply_packets, reply_bytes, refused, without_port } = counted;
            services.push(ServiceRow {
                owner,
                port: port.port,
                protocol: port.protocol.to_string(),
                family: port.family.number(),
                flows,
                packets,
                bytes,
                reply_packets,
                reply_bytes,
                refused,
                without_port,
            });
        }
        services.sort_by(|a, b| (&a.owner, a.port, a.family).cmp(&(&b.owner, b.port, b.family)));
        Ok(Self { services, drops: drops(&view.maps)? })
    }
}

/// What was counted for each Service port id, over all CPUs. Those with nothing are left out.
pub(super) fn by_service(maps: &MapSet) -> Result<BTreeMap<u32, ServiceCounters>, MapError> {
    let mut all = BTreeMap::new();
    maps.service_stats.for_each(|id, cpus| {
        let sum = ServiceCounters::sum(cpus);
        if sum != ServiceCounters::default() {
            all.insert(id, sum);
        }
    })?;
    Ok(all)
}

fn drops(maps: &MapSet) -> Result<Vec<DropRow>, MapError> {
    let mut packets = BTreeMap::new();
    maps.drop_stats.for_each(|reason, cpus| {
        packets.insert(reason, cpus.iter().sum());
    })?;
    let row = |reason: DropReason| DropRow {
        reason: reason.name(),
        packets: packets.get(&(reason as u32)).copied().unwrap_or_default(),
    };
    Ok(DropReason::ALL.into_iter().map(row).collect())
}

impl Rows for Vec<ServiceRow> {
    const HEADER: &'static [&'static str] =
        &["SERVICE", "PORT", "FAMILY", "FLOWS", "PACKETS", "BYTES", "REPLY-PACKETS", "REPLY-BYTES", "REFUSED"];

    fn rows(&self) -> Vec<Vec<String>> {
        let cells = |row: &ServiceRow| {
            let numbers = [row.flows, row.packets, row.bytes, row.reply_packets, row.reply_bytes, row.refused];
            let words =
                [row.owner.service.clone(), format!("{}/{}", row.port, row.protocol), format!("IPv{}", row.family)];
            words.into_iter().chain(numbers.iter().map(u64::to_string)).collect()
        };
        self.iter().map(cells).collect()
    }
}

impl Rows for Vec<DropRow> {
    const HEADER: &'static [&'static str] = &["DROPPED", "PACKETS"];

    fn rows(&self) -> Vec<Vec<String>> {
        self.iter().map(|row| vec![row.reason.to_owned(), row.packets.to_string()]).collect()
    }
}
