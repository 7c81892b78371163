//! The developer's commands of Pointsman: `cargo xtask VERB`.
//!
//! One module a verb. Every verb but `setup` begins with [`setup::ensure`], so that each of them works as the first
//! command on a fresh machine. A verb's exit status tells whether all went well; what went wrong is told once, at the
//! end, on standard error.

mod bench;
mod cluster;
mod demo;
mod fuzz;
mod image;
mod interrupt;
mod kind;
mod setup;
mod terminal;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Developer's commands of Pointsman.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install whatever is missing to build and run everything (the other commands do it by themselves)
    Setup,
    Demo(demo::Args),
    Test(test::Args),
    Bench(bench::Args),
    Fuzz(fuzz::Args),
    Image(image::Args),
    Kind(kind::Args),
    Cluster(cluster::Args),
}

fn main() -> ExitCode {
    match run(&Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup => setup::run().map(|()| ExitCode::SUCCESS),
        Verb::Demo(args) => demo::run(args),
        Verb::Test(args) => test::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Fuzz(args) => fuzz::run(args),
        Verb::Image(args) => image::run(args),
        Verb::Kind(args) => kind::run(args),
        Verb::Cluster(args) => cluster::run(args),
    }
}
