//! `proxy-agent frontends`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytemuck::Pod;
use proxy_common::maps::{FrontendKey, FrontendKind, ServiceCounters};
use serde::Serialize;

use super::View;
use super::counters;
use super::names::{Owner, protocol};
use crate::kernel::{FamilyMaps, MapError};
use crate::output::Rows;
use crate::plan::PlanFamily;

/// One frontend.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    owner: Owner,
    kind: String,
    /// Address and port, IPv6 in brackets.
    address: SocketAddr,
    protocol: String,
    /// How many backends it chooses from.
    backends: u32,
    /// Packets from clients of its Service port.
    packets: u64,
}

/// The frontends, sorted by Service, kind and address.
pub(super) fn list(view: &View) -> Result<Vec<Row>, MapError> {
    let counters = counters::by_service(&view.maps)?;
    let mut rows = Vec::new();
    add(&view.maps.v4, view, &counters, &mut rows)?;
    add(&view.maps.v6, view, &counters, &mut rows)?;
    rows.sort_by(|a, b| (&a.owner, a.address, &a.protocol).cmp(&(&b.owner, b.address, &b.protocol)));
    Ok(rows)
}

fn add<A: PlanFamily>(
    maps: &FamilyMaps<A>,
    view: &View,
    counters: &BTreeMap<u32, ServiceCounters>,
    rows: &mut Vec<Row>,
) -> Result<(), MapError>
where
    FrontendKey<A>: Pod,
{
    maps.frontend.for_each(|key, frontends| {
        let [frontend] = frontends else { return };
        let Some(owner) = view.names.owner(frontend.service) else { return };
        rows.push(Row {
            owner,
            kind: FrontendKind::from_u8(frontend.kind).map_or_else(|| frontend.kind.to_string(), |k| k.name().into()),
            address: SocketAddr::new(key.addr.to_ip(), u16::from_be_bytes(key.port)),
            protocol: protocol(key.proto),
            backends: frontend.count,
            packets: counters.get(&frontend.service).map_or(0, |counters| counters.packets),
        });
    })
}

impl Rows for Vec<Row> {
    const HEADER: &'static [&'static str] = &["SERVICE", "KIND", "ADDRESS", "PROTOCOL", "BACKENDS", "PACKETS"];

    fn rows(&self) -> Vec<Vec<String>> {
        let cells = |row: &Row| {
            let Row { owner, kind, address, protocol, backends, packets } = row;
            vec![
                owner.service.clone(),
                kind.clone(),
                address.to_string(),
                protocol.clone(),
                backends.to_string(),
                packets.to_string(),
            ]
        };
        self.iter().map(cells).collect()
    }
}
