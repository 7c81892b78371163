//! cargo-fuzz, which builds with the sanitizer's flags and runs libFuzzer.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::step::{Lack, Look, Mender, Step};
use super::task;
use crate::workspace;

/// The version that is known to work with our Rust.
const VERSION: &str = "0.13.2";

pub struct CargoFuzz;

impl Step for CargoFuzz {
    fn name(&self) -> &'static str {
        "cargo-fuzz"
    }

    fn look(&self) -> Result<Look> {
        let output = Command::new("cargo").args(["fuzz", "--version"]).output().context("could not run cargo")?;
        let there = String::from_utf8_lossy(&output.stdout);
        Ok(match there.trim().strip_prefix("cargo-fuzz ") {
            // Another version does as well: it only calls cargo.
            Some(version) => Look::Here(version.to_owned()),
            None => Look::Lacking(vec![Lack {
                what: format!("cargo-fuzz {VERSION}"),
                remedy: format!("cargo {}", install_args().join(" ")),
                mender: Mender::Setup,
            }]),
        })
    }

    fn mend(&self) -> Result<()> {
        let mut cargo = workspace::cargo();
        // Not in the workspace: its configuration is for its own crates.
        cargo.current_dir("/").env_remove("RUSTC_BOOTSTRAP").args(install_args());
        task::run(self.name(), &format!("compiling version {VERSION}"), &mut cargo)
            .context("cargo-fuzz did not compile")
    }
}

fn install_args() -> [&'static str; 5] {
    ["install", "--locked", "cargo-fuzz", "--version", VERSION]
}
