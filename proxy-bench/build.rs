//! Builds the bench's own kernel programs and leaves them in `OUT_DIR`. Those that are measured come from the agent.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let programs = concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy-bench-ebpf");
    let common = concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy-common");
    println!("cargo:rerun-if-changed={common}");
    let package = aya_build::Package { name: "proxy-bench-ebpf", root_dir: programs, ..Default::default() };
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom("stable"))?;

    // AYA_BUILD_SKIP leaves nothing: an empty file keeps the bench buildable, and it says so when it is run.
    let object = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?).join("proxy-bench-ebpf");
    if !object.exists() {
        fs::write(&object, []).with_context(|| format!("writing {}", object.display()))?;
    }
    Ok(())
}
