//! `cargo xtask test`: every check and every test, by one command.
//!
//! Tests come in [`Suite`]s, each run by cargo. A failure does not keep the suites after it from running. The last line
//! of the output is `N passed, N failed, N skipped`, and the exit status agrees with it: a suite that was asked for and
//! ran nothing has failed, since a misspelt filter must not look like success.

mod execute;
mod libtest;
mod selection;
mod suite;
mod tally;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use selection::Selection;
use suite::Suite;
use tally::Summary;

use crate::setup::{self, Needs};
use crate::{interrupt, workspace};

/// Run all tests, or those that are named
#[derive(clap::Args)]
#[command(after_help = suite::help())]
pub struct Args {
    /// Suites, each perhaps with filters: SUITE, SUITE/FILTER or SUITE FILTER…; all suites if there are none
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

impl Args {
    /// As if these words had been given.
    pub fn of(names: Vec<String>) -> Self {
        Self { names }
    }
}

/// The verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    let selections = selection::parse(&args.names)?;
    prepare(&selections)?;
    interrupt::outlive_children()?;
    let mut summary = Summary::default();
    for selection in &selections {
        println!("\n== {}", selection.title());
        let start = Instant::now();
        let tally = execute::suite(selection)?;
        let took = start.elapsed();
        println!("{} in {:.1} s", tally.words(), took.as_secs_f64());
        summary.add(selection.suite.name(), tally, took);
        if interrupt::requested() {
            break;
        }
    }
    println!("\n{summary}");
    if interrupt::requested() {
        bail!("interrupted: not all was run");
    }
    Ok(if summary.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sets the machine up as far as the suites need it.
fn prepare(selections: &[Selection]) -> Result<()> {
    let needs = selections.iter().filter_map(|selection| selection.suite.needs());
    let Some(needs) = needs.max() else { return Ok(()) };
    let prepared = setup::ensure(needs);
    if prepared.is_err() && needs >= Needs::Kernel && !nix::unistd::geteuid().is_root() {
        let others: Vec<_> = Suite::ALL.iter().filter(|suite| suite.needs() < Some(Needs::Kernel)).collect();
        let others: Vec<_> = others.into_iter().map(|suite| suite.name()).collect();
        println!("\nThese suites run without root: cargo xtask test {}", others.join(" "));
    }
    prepared
}

/// A cargo in the workspace for a test run.
fn cargo() -> std::process::Command {
    let mut cargo = workspace::cargo();
    // The BPF target's `-Zbuild-std` needs it in the environment; everywhere, so that nothing is built twice.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo
}
