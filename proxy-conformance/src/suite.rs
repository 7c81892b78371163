//! All scenarios on both executors, told as libtest tells it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::host::HostExecutor;
use crate::lab::LabExecutor;
use crate::report::Ledger;
use crate::run::{Executor, Verdict, run as run_scenario};
use crate::scenario::{Scenario, read};

/// Runs the scenarios of a folder whose tests' names have one of the filters in them; all if there is none.
pub fn run(folder: &Path, filters: &[String]) -> ExitCode {
    let started = Instant::now();
    let (scenarios, unreadable) = read_all(folder);
    let mut suite =
        Suite { filters, ledger: Ledger::default(), passed: 0, pending: 0, filtered: 0, failures: Vec::new() };
    for error in unreadable {
        println!("test the scenarios are well-formed ... FAILED");
        suite.failures.push(error);
    }
    println!("\nrunning {} scenarios, each on the packet core and with real sockets", scenarios.len());
    suite.on_host(&scenarios);
    suite.on_labs(&scenarios);
    suite.tell(started)
}

/// The scenarios of all files, by name. Of a file that is wrong the error.
fn read_all(folder: &Path) -> (Vec<Scenario>, Vec<String>) {
    let (mut scenarios, mut errors) = (Vec::new(), Vec::new());
    match files(folder) {
        Ok(files) => {
            for file in files {
                // As one would name it from the workspace.
                let shown = Path::new("conformance").join(file.file_name().unwrap_or_default());
                match read(&file, &shown) {
                    Ok(file) => scenarios.extend(file.scenarios),
                    Err(error) => errors.push(format!("{error:#}")),
                }
            }
        }
        Err(error) => errors.push(format!("{error:#}")),
    }
    (scenarios, errors)
}

fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "scenario") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

struct Suite<'a> {
    filters: &'a [String],
    ledger: Ledger,
    passed: usize,
    pending: usize,
    filtered: usize,
    failures: Vec<String>,
}

impl Suite<'_> {
    fn on_host(&mut self, scenarios: &[Scenario]) {
        self.ledger.set_executor("host");
        for scenario in scenarios {
            if self.is_wanted(scenario, "host") {
                match HostExecutor::new(&scenario.options) {
                    Ok(mut executor) => self.test(scenario, &mut executor),
                    Err(error) => self.cannot_run(scenario, "host", &error),
                }
            }
        }
    }

    /// One lab for all scenarios whose agents have the same flags.
    fn on_labs(&mut self, scenarios: &[Scenario]) {
        self.ledger.set_executor("lab");
        let mut by_options: BTreeMap<&[String], Vec<&Scenario>> = BTreeMap::new();
        for scenario in scenarios {
            if scenario.host_only.is_none() && scenario.pending.is_none() && self.is_wanted(scenario, "lab") {
                by_options.entry(&scenario.options).or_default().push(scenario);
            }
        }
        for (options, scenarios) in by_options {
            match LabExecutor::new(options, &scenarios) {
                Ok(mut executor) => {
                    for scenario in scenarios {
                        self.test(scenario, &mut executor);
                    }
                    if let Err(error) = executor.finish() {
                        self.failures.push(format!("the lab with the options {options:?}: {error:#}"));
                    }
                }
                Err(error) => {
                    for scenario in scenarios {
                        self.cannot_run(scenario, "lab", &error);
                    }
                }
            }
        }
    }

    fn is_wanted(&mut self, scenario: &Scenario, executor: &str) -> bool {
        let name = name(scenario, executor);
        let is_wanted = self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter));
        self.filtered += usize::from(!is_wanted);
        is_wanted
    }

    fn test(&mut self, scenario: &Scenario, executor: &mut dyn Executor) {
        let name = name(scenario, executor.name());
        let Verdict { failures, pending } = run_scenario(scenario, executor, &mut self.ledger);
        let is_host = executor.name() == "host";
        match (&scenario.pending, failures.is_empty()) {
            (Some(reason), true) if is_host => {
                println!("test {name} ... FAILED");
                self.failures.push(format!("{}: it passes: take `pending: {reason}` away", scenario.place));
            }
            (Some(reason), _) => {
                println!("test {name} ... ignored, pending: {reason}");
                self.pending += 1;
            }
            (None, true) => {
                let note =
                    if pending.is_empty() { String::new() } else { format!(" ({} lines pending)", pending.len()) };
                println!("test {name} ... ok{note}");
                self.passed += 1;
            }
            (None, false) => {
                println!("test {name} ... FAILED");
                let failures = failures.iter().map(|failure| format!("  {failure}\n")).collect::<String>();
                self.failures.push(format!("{name}\n{failures}{}", executor.trace()));
            }
        }
        for reason in pending.iter().filter(|_| is_host) {
            println!("  pending at {reason}");
        }
    }

    fn cannot_run(&mut self, scenario: &Scenario, executor: &str, error: &anyhow::Error) {
        let name = name(scenario, executor);
        // Flags of the future are as good a reason to be pending as any.
        if let Some(reason) = &scenario.pending {
            println!("test {name} ... ignored, pending: {reason}");
            self.pending += 1;
            return;
        }
        println!("test {name} ... FAILED");
        self.failures.push(format!("{name}: {}: {error:#}", scenario.place));
    }

    fn tell(self, started: Instant) -> ExitCode {
        let Self { ledger, passed, pending, filtered, failures, .. } = self;
        if !failures.is_empty() {
            println!("\nfailures:\n");
            for failure in &failures {
                println!("{failure}\n");
            }
        }
        println!("\n{ledger}\n");
        let word = if failures.is_empty() { "ok" } else { "FAILED" };
        println!(
            "test result: {word}. {passed} passed; {} failed; {pending} ignored; 0 measured; {filtered} filtered out; \
             finished in {:.2}s",
            failures.len(),
            started.elapsed().as_secs_f64()
        );
        if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn name(scenario: &Scenario, executor: &str) -> String {
    let file = scenario.place.file.file_stem().unwrap_or_default().to_string_lossy();
    format!("{file}: {} ({executor})", scenario.name)
}
