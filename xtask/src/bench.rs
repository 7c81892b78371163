//! `cargo xtask bench`: what Pointsman costs, measured on this machine.
//!
//! The measuring is done by the package `proxy-bench`, built in release; here is only what comes before it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::setup::{self, Needs};
use crate::workspace::cargo;

/// Measure: nanoseconds a packet in each program, beside single map operations
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(clap::Subcommand)]
enum Suite {
    /// The kernel programs by themselves, without a network; takes about a minute once it is built
    Datapath {
        /// Also write the figures to this file, as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Only see whether everything runs, in seconds; the figures mean little
        #[arg(long)]
        quick: bool,
    },
}

/// The verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Needs::Kernel)?;
    let Suite::Datapath { json, quick } = &args.suite;
    let mut bench = cargo();
    bench.args(["run", "--release", "--package=proxy-bench", "--", "datapath"]);
    if let Some(path) = json {
        // Cargo is called in the workspace's root folder, which need not be the user's.
        bench.arg("--json").arg(std::path::absolute(path).context("finding the folder for the figures")?);
    }
    if *quick {
        bench.arg("--quick");
    }
    let status = bench.status().context("could not run cargo")?;
    // What went wrong, the bench has told.
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
