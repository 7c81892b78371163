//! How commands and logs speak: tables, JSON, chains of errors.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

/// How a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table for people.
    #[default]
    Table,
    /// One JSON document with stable field names.
    Json,
}

/// A list that can be printed either way.
pub trait Rows: Serialize {
    /// The table's header.
    const HEADER: &'static [&'static str];

    /// One row for each item.
    fn rows(&self) -> Vec<Vec<String>>;
}

/// Prints a list. An empty table is one sentence on standard error, so that a pipe gets nothing.
///
/// # Errors
/// When the output cannot be written.
pub fn print<T: Rows>(list: &T, format: Format) -> io::Result<()> {
    match format {
        Format::Json => print_json(list),
        Format::Table => {
            let rows = list.rows();
            if rows.is_empty() {
                return writeln!(io::stderr(), "Nothing found.");
            }
            writeln!(io::stdout(), "{}", table(T::HEADER, rows))
        }
    }
}

/// Prints anything as one JSON document.
///
/// # Errors
/// When the output cannot be written.
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

/// A table without lines: columns two spaces apart, no spaces at the ends of lines.
fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Shows an error with all that caused it: `what: why: why that`.
pub fn chain(error: &dyn Error) -> impl fmt::Display {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some errors repeat their cause in their own text.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
