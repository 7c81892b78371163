//! The Rust toolchains that builds use: the one that called us, and rustup's `stable`, with which the agent's build
//! script calls cargo for the kernel's programs. Mostly they are the same.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::task;

/// A toolchain, by its folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// Its folder, free of symbolic links.
    pub sysroot: PathBuf,
    /// As in `1.95.0`, with a suffix for anything but stable.
    pub version: String,
}

impl Toolchain {
    /// The name by which rustup knows it.
    pub fn name(&self) -> String {
        self.sysroot.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where cargo looks for the source of the standard library.
    pub fn source(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust")
    }
}

/// The toolchain that called us.
pub fn current() -> Result<Toolchain> {
    ask(&mut Command::new("rustc")).context("no Rust: see https://rustup.rs")
}

/// All toolchains that builds use, each once.
pub fn in_use() -> Result<Vec<Toolchain>> {
    let mut toolchains = vec![current()?];
    // Absent where Rust does not come from rustup, or is pinned to a version.
    if let Ok(stable) = ask(Command::new("rustup").args(["run", "stable", "rustc"]))
        && !toolchains.contains(&stable)
    {
        toolchains.push(stable);
    }
    Ok(toolchains)
}

fn ask(rustc: &mut Command) -> Result<Toolchain> {
    let sysroot = task::output(rustc.args(["--print", "sysroot"]))?;
    let sysroot = PathBuf::from(sysroot.trim()).canonicalize().context("the toolchain's folder is gone")?;
    // Directly, not through rustup once more.
    let verbose = task::output(Command::new(sysroot.join("bin/rustc")).arg("-vV"))?;
    let version = release(&verbose).context("`rustc -vV` tells no release")?.to_owned();
    Ok(Toolchain { sysroot, version })
}

fn release(verbose: &str) -> Option<&str> {
    verbose.lines().find_map(|line| line.strip_prefix("release: ")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_from_what_rustc_prints() {
        let verbose = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        assert_eq!(release(verbose), Some("1.95.0"));
        assert_eq!(release("rustc 1.95.0\n"), None);
    }
}
