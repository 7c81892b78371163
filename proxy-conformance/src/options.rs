//! The agent's flags, as a scenario names them.

use anyhow::{Context, Result, bail};
use clap::Parser;
use proxy_agent::cli::{Cli, Command};
use proxy_agent::config::Settings;
use proxy_agent::devices::PodDevices;
use proxy_agent::model::ModelOptions;
use proxy_agent::run::rules;

/// What the agent's rules are under some flags, and which devices are pods' to it.
///
/// # Errors
/// When the agent would refuse them.
pub fn read(flags: &[String]) -> Result<(ModelOptions, PodDevices)> {
    let words = ["proxy-agent", "run", "--manifests", "conformance"].map(str::to_owned);
    let cli =
        Cli::try_parse_from(words.iter().chain(flags)).with_context(|| format!("the flags {}", flags.join(" ")))?;
    let Command::Run(args) = cli.command else { bail!("the flags are not those of `run`") };
    let args = *args;
    let settings = Settings::load(None, &args.kube_proxy)?;
    let (mut options, pods) = rules::of(&settings, args.service_proxy_name, args.rules);
    // As `run` does where its hooks at sockets are attached.
    options.localhost_node_ports = settings.localhost_node_ports();
    Ok((options, pods))
}
