//! `cargo xtask cluster`: a real Kubernetes control plane on this machine, with agents on two nodes.
//!
//! `up` starts another process of this program that holds it all, and `down` ends that one; whatever ends it takes
//! everything away.

mod guide;
mod hold;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use proxy_testkit::cluster::programs::Program;

use crate::setup::{self, Needs};
use crate::test;

/// A real Kubernetes control plane here, with two nodes and an agent on each
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start it and leave it running; tells how to use it
    Up,
    /// End it and take everything away
    Down,
    /// Run the tests against it: the same as `cargo xtask test cluster`
    Test {
        /// Parts of test names
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
    /// Build a program of Kubernetes, unless it is in the cache folder, and print its path
    Build {
        /// Which
        #[arg(value_enum, default_value = "kubernetes")]
        program: Built,
    },
    /// Hold a cluster until SIGTERM: what `up` starts
    #[command(hide = true)]
    Hold,
}

#[derive(Clone, Copy, ValueEnum)]
enum Built {
    /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kubectl in one
    Kubernetes,
    /// kube-proxy by itself
    KubeProxy,
}

/// The verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Up => {
            setup::ensure(Needs::Cluster)?;
            hold::up()
        }
        Verb::Down => hold::down(),
        Verb::Test { filters } => {
            let names = std::iter::once("cluster".to_owned()).chain(filters.iter().cloned());
            test::run(&test::Args::of(names.collect()))
        }
        Verb::Build { program } => {
            let program = match program {
                Built::Kubernetes => Program::Kubernetes,
                Built::KubeProxy => Program::KubeProxy,
            };
            setup::build_go_program(program)?;
            println!("{}", program.path()?.display());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Hold => hold::hold(),
    }
}
