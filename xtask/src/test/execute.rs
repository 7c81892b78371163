//! Runs a suite: cargo's output is shown as it comes or kept for a failure, and read for the numbers in it.

use std::io::{BufRead as _, BufReader, pipe};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

use super::selection::Selection;
use super::suite::{Job, Libtest};
use super::tally::Tally;
use super::{cargo, libtest};
use crate::{interrupt, terminal, workspace};

/// Runs what is selected of a suite and counts.
pub fn suite(selection: &Selection) -> Result<Tally> {
    let mut total = Tally::default();
    for job in selection.suite.jobs() {
        total = total.plus(match job {
            Job::Check { name, .. } if !selection.takes(name) => continue,
            Job::Check { args, env, .. } => check(cargo().args(args).envs(env.iter().copied()))?,
            Job::Libtest(job) => tests(&job, &selection.filters)?,
        });
        if interrupt::requested() {
            // Whatever was cut off has not passed.
            return Ok(total);
        }
    }
    if !total.has_run() {
        println!("No test of this suite was run: that counts as a failure.");
        total = total.and_a_failure();
    }
    Ok(total)
}

fn check(command: &mut Command) -> Result<Tally> {
    let outcome = run(command, false)?;
    Ok(Tally::of_check(outcome.status.success()))
}

fn tests(job: &Libtest, filters: &[String]) -> Result<Tally> {
    let mut command = cargo();
    // One binary's failure keeps cargo from the others otherwise.
    command.args(["test", "--no-fail-fast"]).args(job.targets);
    command.arg("--").args(job.args).args(filters);
    if job.with_agent {
        let Some(agent) = build_agent()? else {
            println!("The agent does not build: nothing to test.");
            return Ok(Tally::default().and_a_failure());
        };
        command.env("POINTSMAN_AGENT", agent);
    }
    let outcome = run(&mut command, job.is_live)?;
    let tally = libtest::tally(&outcome.output);
    // Something did not compile, or a test binary died.
    let is_unexplained = !outcome.status.success() && tally.failed == 0;
    Ok(if is_unexplained { tally.and_a_failure() } else { tally })
}

/// Builds the agent and answers its path; `None` if it does not build, which is told.
fn build_agent() -> Result<Option<PathBuf>> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--bin=proxy-agent", "--message-format=json-render-diagnostics"]);
    let output = build.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("could not run cargo build")?;
    if !output.status.success() {
        return Ok(None);
    }
    match workspace::executable(&String::from_utf8_lossy(&output.stdout), "proxy-agent") {
        Some(agent) => Ok(Some(agent)),
        None => bail!("cargo built the agent and does not tell where"),
    }
}

struct Outcome {
    status: ExitStatus,
    /// Standard output and error, as they came.
    output: String,
}

/// Runs a command. Its output is shown as it comes, or only if it fails.
fn run(command: &mut Command, is_live: bool) -> Result<Outcome> {
    let is_terminal = terminal::is_there();
    let (reader, writer) = pipe().context("could not make a pipe")?;
    let errors = writer.try_clone().context("could not make a pipe")?;
    // Cargo sees a pipe, and rustfmt looks at nothing but the kind of terminal: tell them what is at its other end.
    if is_terminal {
        command.env("CARGO_TERM_COLOR", "always");
    } else {
        command.env("CARGO_TERM_COLOR", "never").env("TERM", "dumb");
    }
    let mut child =
        command.stdin(Stdio::null()).stdout(writer).stderr(errors).spawn().context("could not run cargo")?;
    // The command holds the pipe's other end: while it does, reading would not come to an end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut output = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("could not read what cargo prints")?;
        let line = String::from_utf8_lossy(&line);
        if is_live {
            println!("{line}");
        } else if is_terminal {
            terminal::paint(&line);
        }
        output.push_str(&line);
        output.push('\n');
    }
    let status = child.wait().context("could not wait for cargo")?;
    if !is_live && is_terminal {
        terminal::clear();
    }
    if !is_live && !status.success() {
        print!("{output}");
    }
    Ok(Outcome { status, output })
}
