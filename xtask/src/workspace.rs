//! Where the workspace is, and cargo called in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// The cargo that called us: the same toolchain, without another look through rustup.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // `cargo run` sets these for us; they would speak of the wrong package further down.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(root());
    cargo
}

/// Builds the agent, unless the environment names one. Labs find it beside this program.
pub fn build_agent() -> Result<()> {
    if std::env::var_os("POINTSMAN_AGENT").is_some() {
        return Ok(());
    }
    let status = cargo().args(["build", "--bin=proxy-agent"]).status().context("could not run cargo build")?;
    if !status.success() {
        bail!("the agent does not build, see above");
    }
    Ok(())
}
