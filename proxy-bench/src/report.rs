//! The figures: one flat list, the same for every suite.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::machine::Machine;

/// All that a run of the bench found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it was measured on.
    pub machine: Machine,
    /// What was measured.
    pub results: Vec<Figure>,
}

/// One figure. Suite, case, subject, family and protocol together name it.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The suite.
    pub suite: &'static str,
    /// What was done.
    pub case: &'static str,
    /// What it was done to.
    pub subject: &'static str,
    /// `ipv4` or `ipv6`, where it matters.
    pub family: Option<&'static str>,
    /// `tcp` or `udp`, where it matters.
    pub protocol: Option<&'static str>,
    /// The figure; of many measurements the best.
    pub value: f64,
    /// What it counts.
    pub unit: &'static str,
    /// The median, where there were many measurements.
    pub median: Option<f64>,
    /// The case that `ratio` is to.
    pub baseline: Option<&'static str>,
    /// How many times the baseline this is.
    pub ratio: Option<f64>,
}

impl Report {
    /// Writes the report as JSON.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let mut json = serde_json::to_string_pretty(self).context("writing JSON")?;
        json.push('\n');
        std::fs::write(path, json).with_context(|| format!("writing the figures to {}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, is_virtual, kernel, date, load } = &self.machine;
        let kind = if *is_virtual { ", virtual" } else { "" };
        writeln!(f, "{cpu}, {cores} cores{kind}; kernel {kernel}; {date}; load {load}\n")?;
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(["case", "subject", "family", "protocol", "best", "median", "unit", "ratio", "to"]);
        for figure in &self.results {
            let text = |text: Option<&'static str>| text.unwrap_or_default().to_owned();
            let number = |number: Option<f64>, digits: usize| match number {
                Some(number) => format!("{number:.digits$}"),
                None => String::new(),
            };
            // As many as mean something: all numbers of a figure with as many.
            let digits = match figure.value {
                value if figure.unit == "ns" || (10.0..100.0).contains(&value) => 1,
                value if value.fract() != 0.0 && value < 10.0 => 2,
                _ => 0,
            };
            table.add_row([
                figure.case.to_owned(),
                figure.subject.to_owned(),
                text(figure.family),
                text(figure.protocol),
                number(Some(figure.value), digits),
                number(figure.median, digits),
                figure.unit.to_owned(),
                number(figure.ratio, 2),
                text(figure.baseline),
            ]);
        }
        for index in [4, 5, 7] {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        write!(f, "{table}")
    }
}

/// A number with so many digits after the point: more would only say how little they mean.
pub fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}
