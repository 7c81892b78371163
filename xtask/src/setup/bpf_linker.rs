//! bpf-linker, the linker of the BPF target.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::step::{Lack, Look, Mender, Step};
use super::task;
use crate::workspace;

/// The version that is known to work with our Rust; it speaks the same LLVM.
const VERSION: &str = "0.13.0";
/// Where Debian keeps that LLVM.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
/// How the crate calls it.
const LLVM_FEATURE: &str = "llvm-22";

pub struct BpfLinker;

impl Step for BpfLinker {
    fn name(&self) -> &'static str {
        "bpf-linker"
    }

    fn look(&self) -> Result<Look> {
        let found = match version(Path::new("bpf-linker"))? {
            Found::Version(version) if version == VERSION => return Ok(Look::Here(VERSION.into())),
            Found::Version(other) => format!("bpf-linker {VERSION}: there is {other}"),
            Found::Broken => format!("bpf-linker {VERSION}: there is one that does not run"),
            Found::Nothing => format!("bpf-linker {VERSION}"),
        };
        let folder = cargo_bin();
        if let Some(folder) = &folder
            && !is_in_path(folder)
        {
            return Ok(Look::Lacking(vec![Lack {
                what: format!("{} in PATH, where cargo installs bpf-linker", folder.display()),
                remedy: format!("export PATH=\"{}:$PATH\"", folder.display()),
                mender: Mender::Owner,
            }]));
        }
        Ok(Look::Lacking(vec![Lack {
            what: found,
            remedy: format!("LLVM_PREFIX={LLVM_PREFIX} cargo {}", install_args().join(" ")),
            mender: Mender::Setup,
        }]))
    }

    fn mend(&self) -> Result<()> {
        let mut cargo = workspace::cargo();
        // Not in the workspace: its configuration is for its own crates.
        cargo.current_dir("/").env_remove("RUSTC_BOOTSTRAP").env("LLVM_PREFIX", LLVM_PREFIX).args(install_args());
        task::run(self.name(), &format!("compiling version {VERSION}"), &mut cargo)
            .context("bpf-linker did not compile")
    }
}

fn install_args() -> [&'static str; 8] {
    ["install", "--locked", "bpf-linker", "--version", VERSION, "--no-default-features", "--features", LLVM_FEATURE]
}

enum Found {
    Version(String),
    Broken,
    Nothing,
}

fn version(program: &Path) -> Result<Found> {
    match Command::new(program).arg("--version").output() {
        Ok(output) => {
            let version = String::from_utf8_lossy(&output.stdout);
            let version = version.trim().strip_prefix("bpf-linker ").filter(|_| output.status.success());
            Ok(version.map_or(Found::Broken, |version| Found::Version(version.to_owned())))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error).context("could not run bpf-linker"),
    }
}

/// The folder that `cargo install` installs into.
fn cargo_bin() -> Option<PathBuf> {
    Some(workspace::cargo_home()?.join("bin"))
}

fn is_in_path(folder: &Path) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|entry| entry == folder))
}
