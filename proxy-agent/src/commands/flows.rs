//! `proxy-agent flows`.

use std::net::SocketAddr;

use bytemuck::Pod;
use proxy_common::maps::{Flow, FlowSet, FlowState, FlowWay, SCTP, TCP};
use serde::Serialize;

use super::View;
use super::names::{Owner, protocol};
use crate::kernel::{self, FamilyMaps};
use crate::output::Rows;
use crate::plan::PlanFamily;

/// One connection.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    owner: Owner,
    protocol: String,
    /// The client, as it sees itself.
    client: SocketAddr,
    /// Where the client sends to.
    frontend: SocketAddr,
    /// Who answers.
    backend: SocketAddr,
    /// What the backend sees in place of the client.
    masquerade: Option<SocketAddr>,
    state: &'static str,
    /// Seconds since it began.
    age: u64,
    /// Seconds since the last packet.
    idle: u64,
}

/// The connections, sorted by Service and client.
pub(super) fn list(view: &View) -> anyhow::Result<Vec<Row>> {
    let now = kernel::now()?;
    let mut rows = Vec::new();
    add(&view.maps.v4, view, now, &mut rows)?;
    add(&view.maps.v6, view, now, &mut rows)?;
    rows.sort_by(|a, b| (&a.owner, a.client, a.frontend).cmp(&(&b.owner, b.client, b.frontend)));
    Ok(rows)
}

fn add<A: PlanFamily>(maps: &FamilyMaps<A>, view: &View, now: u64, rows: &mut Vec<Row>) -> anyhow::Result<()>
where
    FlowSet<A>: Pod,
{
    let address = |ip: A, port: [u8; 2]| SocketAddr::new(ip.to_ip(), u16::from_be_bytes(port));
    let mut add = |way: &FlowWay, flow: &Flow<A>| {
        let Some(owner) = view.names.owner(flow.service) else { return };
        let masquerade = (flow.masquerade_port != [0; 2]).then(|| address(flow.masquerade, flow.masquerade_port));
        rows.push(Row {
            owner,
            protocol: protocol(way.proto()),
            client: address(flow.client, flow.client_port),
            frontend: address(flow.frontend, flow.frontend_port),
            backend: address(flow.backend, flow.backend_port),
            masquerade,
            state: state(way.proto(), way.state),
            age: now.saturating_sub(u64::from(flow.began)),
            idle: now.saturating_sub(u64::from(way.seen)),
        });
    };
    maps.flow.for_each(|_, sets| {
        for set in sets {
            let is_flow = |way: &FlowWay| !way.is_free() && !way.is_alias();
            set.ways.iter().zip(&set.flows).filter(|(way, _)| is_flow(way)).for_each(|(way, flow)| add(way, flow));
        }
    })?;
    Ok(())
}

/// What has been seen of a connection, in a word.
fn state(proto: u8, state: u8) -> &'static str {
    let has = |bits| state & bits != 0;
    match proto {
        TCP if has(FlowState::RESET) => "reset",
        TCP if has(FlowState::CLIENT_FIN) && has(FlowState::BACKEND_FIN) => "closed",
        TCP if has(FlowState::CLOSING) => "closing",
        TCP if has(FlowState::CONFIRMED) => "established",
        TCP => "opening",
        SCTP if has(FlowState::RESET) => "reset",
        _ if has(FlowState::ANSWERED) => "answered",
        _ => "unanswered",
    }
}

impl Rows for Vec<Row> {
    const HEADER: &'static [&'static str] =
        &["SERVICE", "PROTOCOL", "CLIENT", "FRONTEND", "BACKEND", "MASQUERADE", "STATE", "AGE", "IDLE"];

    fn rows(&self) -> Vec<Vec<String>> {
        let cells = |row: &Row| {
            let Row { owner, protocol, client, frontend, backend, masquerade, state, age, idle } = row;
            vec![
                owner.service.clone(),
                protocol.clone(),
                client.to_string(),
                frontend.to_string(),
                backend.to_string(),
                masquerade.map_or_else(|| "-".to_owned(), |address| address.to_string()),
                (*state).to_owned(),
                duration(*age),
                duration(*idle),
            ]
        };
        self.iter().map(cells).collect()
    }
}

/// Seconds as kubectl writes them: `42s`, `7m5s`, `3h12m`, `2d4h`.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (65, "1m5s"), (3660, "1h1m"), (90_000, "1d1h")] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn states() {
        const SYN: u8 = FlowState::SYN;
        const OPEN: u8 = SYN | FlowState::ANSWERED | FlowState::CONFIRMED;
        for (proto, bits, word) in [
            (TCP, SYN, "opening"),
            (TCP, SYN | FlowState::ANSWERED, "opening"),
            (TCP, OPEN, "established"),
            (TCP, OPEN | FlowState::CLIENT_FIN, "closing"),
            (TCP, OPEN | FlowState::CLIENT_FIN | FlowState::BACKEND_FIN, "closed"),
            (TCP, OPEN | FlowState::RESET, "reset"),
            (17, 0, "unanswered"),
            (17, FlowState::ANSWERED, "answered"),
        ] {
            assert_eq!(state(proto, bits), word);
        }
    }
}
