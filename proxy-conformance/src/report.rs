//! What was run, counted by feature, family and the client's position, and the table of it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use proxy_testkit::lab::Family;

use crate::places;
use crate::scenario::{Line, Outcome, Scenario};

/// Where a client is, seen from the endpoint that is to answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Position {
    /// A pod of the endpoint's node.
    LocalPod,
    /// A pod of the other node.
    RemotePod,
    /// The endpoint itself.
    Hairpin,
    /// A pod that is not to be answered.
    Pod,
    /// A node's own process.
    Node,
    /// Outside of the cluster.
    Outside,
}

impl Position {
    const ALL: [Self; 6] = [Self::LocalPod, Self::RemotePod, Self::Hairpin, Self::Pod, Self::Node, Self::Outside];

    const fn name(self) -> &'static str {
        match self {
            Self::LocalPod => "local pod",
            Self::RemotePod => "remote pod",
            Self::Hairpin => "hairpin",
            Self::Pod => "pod, in vain",
            Self::Node => "node",
            Self::Outside => "outside",
        }
    }
}

/// How a line went in a family, by a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// As it must.
    Passed,
    /// Not so.
    Failed,
    /// Not so, as was known.
    Pending,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    passed: usize,
    failed: usize,
    pending: usize,
}

/// Counts for each executor.
#[derive(Debug, Default)]
pub struct Ledger {
    executor: &'static str,
    counts: BTreeMap<(String, bool, Position), BTreeMap<&'static str, Count>>,
    /// Why lines were not run, and how often.
    excuses: BTreeMap<String, usize>,
}

impl Ledger {
    /// Names the executor of what follows.
    pub fn set_executor(&mut self, name: &'static str) {
        self.executor = name;
    }

    /// Counts a line.
    pub fn add(&mut self, scenario: &Scenario, line: &Line, family: Family, event: Event) {
        let event = if event == Event::Failed && scenario.pending.is_some() { Event::Pending } else { event };
        for position in positions(line).unwrap_or_default() {
            let cell = self.counts.entry((scenario.feature.clone(), family == Family::V6, position)).or_default();
            let count = cell.entry(self.executor).or_default();
            match event {
                Event::Passed => count.passed += 1,
                Event::Failed => count.failed += 1,
                Event::Pending => count.pending += 1,
            }
        }
    }

    /// Notes that a line was not run.
    pub fn skip(&mut self, reason: String) {
        *self.excuses.entry(reason).or_default() += 1;
    }
}

/// The positions that a line is about: one for each relation of the client to an endpoint.
fn positions(line: &Line) -> Result<Vec<Position>> {
    let from = places::host(&line.from)?;
    if from.is_outside() {
        return Ok(vec![Position::Outside]);
    }
    if from.is_node() {
        return Ok(vec![Position::Node]);
    }
    let served = match &line.outcome {
        Outcome::Served(served) | Outcome::OneOf(served) => served.as_slice(),
        Outcome::TheSame(_) | Outcome::Another(_) | Outcome::Refused | Outcome::Dropped | Outcome::Untouched => &[],
    };
    if served.is_empty() {
        return Ok(vec![Position::Pod]);
    }
    let mut positions = Vec::new();
    for served in served {
        let by = places::host(&served.by)?;
        let position = match (by == from, by.node() == from.node()) {
            (true, _) => Position::Hairpin,
            (false, true) => Position::LocalPod,
            (false, false) => Position::RemotePod,
        };
        if !positions.contains(&position) {
            positions.push(position);
        }
    }
    Ok(positions)
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let mut header = vec!["feature".to_owned(), String::new()];
        header.extend(Position::ALL.map(|position| position.name().to_owned()));
        table.set_header(header);
        let mut rows: Vec<(&String, bool)> = self.counts.keys().map(|(feature, is_v6, _)| (feature, *is_v6)).collect();
        rows.dedup();
        for (feature, is_v6) in rows {
            let mut row = vec![feature.clone(), if is_v6 { "IPv6" } else { "IPv4" }.to_owned()];
            row.extend(Position::ALL.map(|position| self.cell(feature, is_v6, position)));
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for line in table.to_string().lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        write!(
            f,
            "Each figure counts lines times protocols that are as they must be: on the packet core + with real sockets."
        )?;
        for (reason, count) in &self.excuses {
            write!(f, "\nNot with real sockets: {count}, {reason}")?;
        }
        Ok(())
    }
}

impl Ledger {
    fn cell(&self, feature: &str, is_v6: bool, position: Position) -> String {
        let Some(counts) = self.counts.get(&(feature.to_owned(), is_v6, position)) else { return String::new() };
        let of = |executor| counts.get(executor).copied().unwrap_or_default();
        let (host, lab) = (of("host"), of("lab"));
        let mut text = format!("{}+{}", host.passed, lab.passed);
        let (failed, pending) = (host.failed + lab.failed, host.pending + lab.pending);
        if pending > 0 {
            text.push_str(&format!(" {pending} pending"));
        }
        if failed > 0 {
            text.push_str(&format!(" {failed} FAILED"));
        }
        text
    }
}
