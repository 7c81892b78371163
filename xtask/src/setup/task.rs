//! A command that may take long: its progress on a terminal, its last words if it fails.
//!
//! On a terminal one line is painted over and over: the elapsed seconds and the command's latest line. Elsewhere there
//! is a plain line at the start and one each half minute. The command never gets the terminal as its input.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, pipe};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::terminal;

/// How many of the last lines are told when a command fails.
const LAST_WORDS: usize = 30;

/// Runs a command to its end, for a step; fails with its last lines if it does.
pub fn run(step: &str, doing: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    let task = Task { step, doing, start, is_terminal: terminal::is_there() };
    let outcome = task.run(command)?;
    if !outcome.status.success() {
        bail!("{doing}: {} ended with {}:\n{}", words(command), outcome.status, outcome.last_words());
    }
    Ok(())
}

/// Runs a command that is over at once, and answers its standard output; fails with its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("could not run {}", words(command)))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", words(command), output.status, error.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} did not answer in UTF-8", words(command)))
}

/// The command as one would type it.
fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}

struct Outcome {
    status: ExitStatus,
    lines: VecDeque<String>,
}

impl Outcome {
    fn last_words(&self) -> String {
        let lines: Vec<_> = self.lines.iter().map(|line| format!("  {line}")).collect();
        lines.join("\n")
    }
}

struct Task<'a> {
    step: &'a str,
    doing: &'a str,
    start: Instant,
    is_terminal: bool,
}

impl Task<'_> {
    fn run(&self, command: &mut Command) -> Result<Outcome> {
        let (reader, writer) = pipe().context("could not make a pipe")?;
        let errors = writer.try_clone().context("could not make a pipe")?;
        command.stdin(Stdio::null()).stdout(writer).stderr(errors);
        let mut child = command.spawn().with_context(|| format!("{}: could not run {}", self.doing, words(command)))?;
        // The command holds the pipe's other end: while it does, the reader below would not come to an end.
        command.stdout(Stdio::null()).stderr(Stdio::null());

        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if !line.is_empty() && sender.send(line).is_err() {
                    return;
                }
            }
        });

        let mut lines = VecDeque::new();
        self.begin();
        let mut told = Instant::now();
        loop {
            match receiver.recv_timeout(Duration::from_millis(500)) {
                Ok(line) => {
                    lines.push_back(line);
                    if lines.len() > LAST_WORDS {
                        lines.pop_front();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tell(lines.back().map_or("", String::as_str), &mut told);
        }
        let status = child.wait().with_context(|| format!("{}: could not wait for its end", self.doing))?;
        self.end();
        Ok(Outcome { status, lines })
    }

    fn begin(&self) {
        if !self.is_terminal {
            println!("...      {:<11} {}", self.step, self.doing);
        }
    }

    fn tell(&self, latest: &str, told: &mut Instant) {
        let elapsed = self.start.elapsed().as_secs();
        let interval = if self.is_terminal { Duration::from_millis(100) } else { Duration::from_secs(30) };
        if told.elapsed() < interval {
            return;
        }
        *told = Instant::now();
        if self.is_terminal {
            let line =
                format!("...      {:<11} {elapsed:>4} s  {}: {}", self.step, self.doing, terminal::printable(latest));
            terminal::paint(&line);
        } else {
            println!("...      {:<11} {}: {elapsed} s so far: {}", self.step, self.doing, terminal::printable(latest));
        }
    }

    fn end(&self) {
        if self.is_terminal {
            terminal::clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_the_last_words_of_both_streams() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = run("test", "trying", &mut command).expect_err("it exits with 3").to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("  one\n  two"), "{error}");
    }
}
