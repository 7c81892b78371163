//! `cargo xtask bench`: what Pointsman costs, measured on this machine.
//!
//! The measuring is done by the package `proxy-bench`, built in release together with the agent; here is only what comes
//! before it.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use proxy_testkit::cluster::programs::Program;

use crate::setup::{self, Needs};
use crate::workspace::{self, cargo};

/// Measure: nanoseconds a packet in each program, real traffic, the control plane at scale
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    suite: Option<Suite>,
    #[command(flatten)]
    rivals: Rivals,
}

#[derive(clap::Subcommand)]
enum Suite {
    /// The kernel programs by themselves, without a network; takes three to five minutes once it is built
    Datapath {
        #[command(flatten)]
        common: Common,
        /// Only the cases with this in their names, which are such as `established-1k xdp-out ipv6 udp`
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
    },
    /// Real traffic through whole proxies, and what a packet costs the node
    Live {
        #[command(flatten)]
        rivals: Rivals,
        /// How many Services there are, growing [default: 10,1000,10000]
        #[arg(long, value_name = "N,...")]
        sizes: Option<String>,
    },
    /// The control plane: starts, one endpoint changed, 1,000 changes a second, memory
    Scale {
        #[command(flatten)]
        rivals: Rivals,
        /// How many Services with how many endpoints each
        #[arg(long, value_name = "NxM,...")]
        sizes: Option<String>,
    },
}

#[derive(clap::Args)]
struct Common {
    /// Also write the figures to this file, as JSON; of several suites, one file each, named after them
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only see whether everything runs; the figures mean little
    #[arg(long)]
    quick: bool,
}

#[derive(clap::Args)]
struct Rivals {
    #[command(flatten)]
    common: Common,
    /// Also measure the real kube-proxy, built from its Go module, in the same run: modes nftables and iptables
    #[arg(long, value_enum)]
    against: Option<Rival>,
    /// Also draw the figures of `live` and `scale`, as SVG, into this folder
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Rival {
    KubeProxy,
}

/// The verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    let all = [("datapath", &args.rivals, None), ("live", &args.rivals, None), ("scale", &args.rivals, None)];
    match &args.suite {
        Some(Suite::Datapath { common, only }) => {
            setup::ensure(Needs::Kernel)?;
            start(&build()?, "datapath", common, &Extras { only: only.as_deref(), ..Extras::default() })
        }
        Some(Suite::Live { rivals, sizes }) => several(&[("live", rivals, sizes.as_deref())]),
        Some(Suite::Scale { rivals, sizes }) => several(&[("scale", rivals, sizes.as_deref())]),
        None => several(&all),
    }
}

/// Runs suites that need a control plane, one after the other, until one fails.
fn several(suites: &[(&str, &Rivals, Option<&str>)]) -> Result<ExitCode> {
    setup::ensure(Needs::Cluster)?;
    if suites.iter().any(|(_, rivals, _)| rivals.against.is_some()) {
        setup::build_go_program(Program::KubeProxy)?;
    }
    let bench = build()?;
    for (suite, rivals, sizes) in suites {
        let mut common = Common { json: rivals.common.json.clone(), quick: rivals.common.quick };
        if suites.len() > 1 {
            common.json = common.json.map(|path| beside(&path, suite));
        }
        let extras = match *suite {
            "datapath" => Extras::default(),
            _ => Extras { against: rivals.against, plots: rivals.plots.as_deref(), sizes: *sizes, only: None },
        };
        let code = start(&bench, suite, &common, &extras)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `figures.json` of the suite `live` is `figures-live.json`.
fn beside(path: &Path, suite: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let end = path.extension().map(|end| format!(".{}", end.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{suite}{end}"))
}

/// What only some of the suites take.
#[derive(Default)]
struct Extras<'a> {
    against: Option<Rival>,
    plots: Option<&'a Path>,
    sizes: Option<&'a str>,
    only: Option<&'a str>,
}

fn start(bench: &Path, suite: &str, common: &Common, extras: &Extras<'_>) -> Result<ExitCode> {
    let mut command = std::process::Command::new(bench);
    command.arg(suite);
    if let Some(path) = &common.json {
        command.arg("--json").arg(path);
    }
    if common.quick {
        command.arg("--quick");
    }
    if let Some(Rival::KubeProxy) = extras.against {
        command.args(["--against", "kube-proxy"]);
    }
    if let Some(folder) = extras.plots {
        command.arg("--plots").arg(folder);
    }
    if let Some(sizes) = extras.sizes {
        command.args(["--sizes", sizes]);
    }
    if let Some(only) = extras.only {
        command.args(["--only", only]);
    }
    let status = command.status().with_context(|| format!("could not run {}", bench.display()))?;
    // What went wrong, the bench has told.
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the bench and the agent beside it, and answers the bench's path.
fn build() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--release", "--bin=proxy-bench", "--bin=proxy-agent"]);
    build.arg("--message-format=json-render-diagnostics");
    let output = build.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("could not run cargo build")?;
    if !output.status.success() {
        bail!("the bench does not build, see above");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    workspace::executable(&messages, "proxy-bench").context("cargo built the bench and does not tell where")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_suite_has_a_file() {
        assert_eq!(beside(Path::new("a/figures.json"), "live"), Path::new("a/figures-live.json"));
        assert_eq!(beside(Path::new("figures"), "scale"), Path::new("figures-scale"));
    }
}
