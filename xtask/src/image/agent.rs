//! The agent as one static program, which needs nothing of the image around it.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::{setup, workspace};

/// What is built for.
pub struct Platform {
    /// As Rust calls it.
    pub target: &'static str,
    /// As image registries call it.
    pub architecture: &'static str,
}

impl Platform {
    /// That of this machine.
    pub fn of_host() -> Result<Self> {
        // With glibc, whose static library comes with any C compiler, and not musl: no other standard library to be
        // downloaded, and the allocator that everything else here is measured with.
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self { target: "x86_64-unknown-linux-gnu", architecture: "amd64" }),
            "aarch64" => Ok(Self { target: "aarch64-unknown-linux-gnu", architecture: "arm64" }),
            other => bail!("there is no image for {other}: only for x86_64 and aarch64"),
        }
    }
}

/// Builds it. Answers where it is.
pub fn build(platform: &Platform, profile: &str) -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--locked", "--package=proxy-agent", "--bin=proxy-agent"]);
    cargo.args(["--profile", profile, "--message-format=json-render-diagnostics"]);
    // Named though it is the host's, so that the flags are for the agent and not for build scripts.
    cargo.args(["--target", platform.target]);
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", platform.target.replace('-', "_").to_uppercase());
    cargo.env(variable, flags()?);
    let output = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("could not run cargo build")?;
    if !output.status.success() {
        bail!("the agent does not build, see above");
    }
    workspace::executable(&String::from_utf8_lossy(&output.stdout), "proxy-agent")
        .context("cargo built the agent and does not tell where")
}

/// Static; and free of this machine's paths, which would make the same source another program elsewhere.
fn flags() -> Result<String> {
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    let mut rename = |from: PathBuf, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    rename(workspace::root(), "pointsman");
    if let Some(home) = workspace::cargo_home() {
        rename(home.join("registry/src"), "crates");
    }
    // Of the standard library, as rustc itself calls it where its source is not installed.
    rename(setup::sysroot()?.join("lib/rustlib/src/rust"), "/rustc");
    // Cargo splits the text at spaces.
    flags.retain(|flag| !flag.contains(' '));
    Ok(flags.join(" "))
}
