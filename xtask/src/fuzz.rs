//! `cargo xtask fuzz`: the packet core under libFuzzer.
//!
//! What is checked is `proxy_testkit::packets::fuzz`. An input that breaks a property is copied to
//! `proxy-testkit/tests/fuzz`, where `cargo xtask test unit` runs it from then on.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::setup::{self, Needs};
use crate::workspace;

/// Look for packets that break the packet core
#[derive(clap::Args)]
pub struct Args {
    /// For how long to look
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

/// The verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Needs::Fuzz)?;
    let root = workspace::root();
    let fuzz = root.join("fuzz");
    let mut cargo = Command::new("cargo");
    // The sanitizer's flags are unstable ones; `fuzz` is a workspace of its own, which `.cargo/config.toml` reaches.
    cargo.current_dir(&fuzz).env("RUSTC_BOOTSTRAP", "1").args(["fuzz", "run", "--fuzz-dir", ".", "packets", "--"]);
    cargo.arg(format!("-max_total_time={}", args.seconds)).args(["-max_len=600", "-print_final_stats=1"]);
    let status = cargo.status().context("could not run cargo fuzz")?;
    let kept = keep_crashes(&fuzz.join("artifacts/packets"), &root.join("proxy-testkit/tests/fuzz"))?;
    for name in &kept {
        println!("kept as proxy-testkit/tests/fuzz/{name}: `cargo xtask test unit` runs it from now on");
    }
    Ok(if status.success() && kept.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Copies what libFuzzer has left of failures. Returns the names of those that are new.
fn keep_crashes(from: &Path, to: &Path) -> Result<Vec<String>> {
    let Ok(files) = fs::read_dir(from) else {
        return Ok(Vec::new());
    };
    let mut kept = Vec::new();
    for file in files {
        let path = file.with_context(|| format!("reading {}", from.display()))?.path();
        let Some(name) = path.file_name().and_then(OsStr::to_str) else { continue };
        let copy = to.join(name);
        if name.starts_with("crash-") && !copy.exists() {
            fs::copy(&path, &copy).with_context(|| format!("copying {} to {}", path.display(), copy.display()))?;
            kept.push(name.to_owned());
        }
    }
    Ok(kept)
}
