//! `proxy-agent`: see `proxy-agent --help`.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use proxy_agent::cli::{Cli, Command, LogFormat, PinArgs, RunArgs};
use proxy_agent::config::Settings;
use proxy_agent::kernel::{self, PacketLog};
use proxy_agent::{commands, output, run};
use tracing::Level;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // `proxy-agent flows | head`
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {}", output::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => {
            if args.cleanup {
                return cleanup(&args.pins, false);
            }
            let settings = Settings::load(args.config.as_deref(), &args.kube_proxy)?;
            log_to_stderr(&args, &settings)?;
            if settings.init_only {
                tracing::info!("--init-only: nothing has to be done before the agent runs");
                return Ok(());
            }
            let runtime = runtime()?;
            Ok(runtime.block_on(run::run(*args, settings, packet_log()))?)
        }
        Command::Cleanup(args) => cleanup(&args.pins, args.force),
        Command::Frontends(args) => commands::frontends(&args),
        Command::Backends(args) => commands::backends(&args),
        Command::Flows(args) => commands::flows(&args),
        Command::Counters(args) => commands::counters(&args),
    }
}

fn cleanup(pins: &PinArgs, force: bool) -> anyhow::Result<()> {
    let mut is_clean = true;
    let report = |removed| {
        is_clean = false;
        println!("removed {removed}");
    };
    runtime()?.block_on(kernel::cleanup(&pins.path(), force, report))?;
    if is_clean {
        println!("nothing to remove at {}", pins.pin_path.display());
    }
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")
}

/// Sets up the log: RUST_LOG if it is set, else by -v.
fn log_to_stderr(args: &RunArgs, settings: &Settings) -> anyhow::Result<()> {
    // What the client of the API server says of each failed request is said by us, once.
    let by_flag = match settings.verbosity {
        0..4 => "info,kube_client=off",
        4..6 => "info,kube_client=off,proxy_agent=debug,proxy_ebpf=debug",
        _ => "debug,proxy_agent=trace,proxy_ebpf=trace",
    };
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(text) if !text.is_empty() => {
            EnvFilter::try_new(&text).with_context(|| format!("reading RUST_LOG={text}"))?
        }
        _ => EnvFilter::new(by_flag),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let format = if settings.logs_json { LogFormat::Json } else { args.log_format };
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => {
            let is_colourful = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(is_colourful).with_target(settings.verbosity >= 4).init();
        }
    }
    Ok(())
}

/// What the kernel programs are to say: as much as the log wants of them.
fn packet_log() -> PacketLog {
    if tracing::enabled!(target: "proxy_ebpf", Level::TRACE) {
        PacketLog::Trace
    } else if tracing::enabled!(target: "proxy_ebpf", Level::DEBUG) {
        PacketLog::Debug
    } else {
        PacketLog::Off
    }
}
