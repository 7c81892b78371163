//! Pointsman's bench: what the datapath costs, measured beside what single map operations cost in the same run.
//!
//! One module a suite. A suite yields [`report::Figure`]s, one flat list whatever the suite; they are printed as a table
//! and, if asked for, written as JSON. Absolute figures do not carry over to another machine: compare ratios.

mod datapath;
mod ground;
mod live;
mod machine;
mod names;
mod offload;
mod plain;
mod plot;
mod report;
mod samples;
mod scale;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use ground::subject::Subject;
use machine::Machine;
use report::Report;

/// The object file with the bench's kernel programs, as the build made it. Empty where it was told to skip it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/proxy-bench-ebpf"));

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
    Datapath {
        #[command(flatten)]
        settings: Settings,
        /// Only the cases with this in their names, which are such as `established-1k xdp-out ipv6 udp`
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        only: String,
    },
    /// Real traffic through whole proxies, and what a packet costs the node
    Live {
        #[command(flatten)]
        rivals: Rivals,
        /// How many Services there are, growing
        #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "10,1000,10000")]
        sizes: Vec<usize>,
    },
    /// What the control plane costs: starts, changes, memory
    Scale {
        #[command(flatten)]
        rivals: Rivals,
        /// How many Services with how many endpoints each
        #[arg(long, value_name = "NxM,...", value_delimiter = ',', default_value = "10000x10", value_parser = size)]
        sizes: Vec<(usize, usize)>,
    },
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

/// The same, with others to measure against.
#[derive(Args)]
struct Rivals {
    #[command(flatten)]
    settings: Settings,
    /// Also measure the real kube-proxy, in each of its modes, in the same run
    #[arg(long, value_enum)]
    against: Option<Rival>,
    /// Also draw the figures, as SVG, into this folder
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rival {
    KubeProxy,
}

impl Rivals {
    fn subjects(&self) -> &'static [Subject] {
        match self.against {
            Some(Rival::KubeProxy) => &[Subject::Nftables, Subject::Iptables],
            None => &[],
        }
    }
}

/// `10000x10`.
fn size(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once('x').and_then(|(services, endpoints)| {
        let (services, endpoints) = (services.parse().ok()?, endpoints.parse().ok()?);
        // Addresses of endpoints are numbered through, 62,500 in each of 235 ranges, in 15 generations.
        (services > 0 && endpoints > 0 && services * endpoints <= 1_000_000).then_some((services, endpoints))
    });
    parsed.ok_or_else(|| format!("'{text}': expected Services x endpoints, such as 10000x10, a million at most in all"))
}

fn main() -> ExitCode {
    match run(&Cli::parse().suite) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(suite: &Suite) -> Result<()> {
    let machine = Machine::look()?;
    let (settings, plots, results) = match suite {
        Suite::Datapath { settings, only } => (settings, None, datapath::run(settings.quick, only)?),
        Suite::Live { rivals, sizes } => {
            let results = live::run(rivals.settings.quick, sizes, rivals.subjects())?;
            (&rivals.settings, rivals.plots.as_ref(), results)
        }
        Suite::Scale { rivals, sizes } => {
            let results = scale::run(rivals.settings.quick, sizes, rivals.subjects())?;
            (&rivals.settings, rivals.plots.as_ref(), results)
        }
    };
    let report = Report { machine, results };
    println!("{report}");
    if let Some(folder) = plots {
        plot::draw(&report, folder)?;
    }
    match &settings.json {
        Some(path) => report.write_json(path),
        None => Ok(()),
    }
}
