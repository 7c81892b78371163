//! Pointsman's bench: what the datapath costs, measured beside what single map operations cost in the same run.
//!
//! One module a suite. A suite yields [`report::Figure`]s, one flat list whatever the suite; they are printed as a table
//! and, if asked for, written as JSON. Absolute figures do not carry over to another machine: compare ratios.

mod datapath;
mod machine;
mod report;
mod samples;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use machine::Machine;
use report::Report;

/// Measures Pointsman.
#[derive(Parser)]
#[command(name = "proxy-bench")]
struct Cli {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    /// Nanoseconds a packet, program by program, without a network: BPF_PROG_TEST_RUN
    Datapath(Settings),
}

/// How to run a suite, and where its figures go.
#[derive(Args)]
struct Settings {
    /// Also write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only see whether everything runs, in seconds; the figures mean little
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let Suite::Datapath(settings) = Cli::parse().suite;
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> Result<()> {
    let machine = Machine::look()?;
    let results = datapath::run(settings.quick)?;
    let report = Report { machine, results };
    println!("{report}");
    match &settings.json {
        Some(path) => report.write_json(path),
        None => Ok(()),
    }
}
