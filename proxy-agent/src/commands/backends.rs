//! `proxy-agent backends`.

use std::net::SocketAddr;

use bytemuck::Pod;
use proxy_common::maps::Backend;
use serde::Serialize;

use super::View;
use super::names::Owner;
use crate::kernel::{FamilyMaps, MapError};
use crate::model::Family;
use crate::output::Rows;
use crate::plan::PlanFamily;

/// One backend.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    owner: Owner,
    /// Address and port, IPv6 in brackets.
    address: SocketAddr,
    /// It is on this node.
    local: bool,
    /// Its index in the map of its family.
    id: u32,
    /// How often the id had been freed before.
    generation: u32,
    /// 4 or 6.
    family: u8,
}

/// The backends in use, sorted by Service and address.
pub(super) fn list(view: &View) -> Result<Vec<Row>, MapError> {
    let mut rows = Vec::new();
    add(&view.maps.v4, view, &mut rows)?;
    add(&view.maps.v6, view, &mut rows)?;
    rows.sort_by(|a, b| (&a.owner, a.address, a.id).cmp(&(&b.owner, b.address, b.id)));
    Ok(rows)
}

fn add<A: PlanFamily>(maps: &FamilyMaps<A>, view: &View, rows: &mut Vec<Row>) -> Result<(), MapError>
where
    Backend<A>: Pod,
{
    maps.backend.for_each(|id, backends| {
        let [backend] = backends else { return };
        if !backend.is_live() {
            return;
        }
        let Some(owner) = view.names.owner(backend.service) else { return };
        let ip = backend.addr.to_ip();
        rows.push(Row {
            owner,
            address: SocketAddr::new(ip, u16::from_be_bytes(backend.port)),
            local: backend.is_local(),
            id,
            generation: backend.generation,
            family: Family::of(ip).number(),
        });
    })
}

impl Rows for Vec<Row> {
    const HEADER: &'static [&'static str] = &["SERVICE", "ADDRESS", "LOCAL", "ID", "GENERATION"];

    fn rows(&self) -> Vec<Vec<String>> {
        let cells = |row: &Row| {
            let Row { owner, address, local, id, generation, family: _ } = row;
            vec![
                owner.service.clone(),
                address.to_string(),
                if *local { "yes" } else { "no" }.to_owned(),
                id.to_string(),
                generation.to_string(),
            ]
        };
        self.iter().map(cells).collect()
    }
}
