//! The parts of the Rust toolchain that rustup's smallest profile leaves out and the tests use.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::step::{Lack, Look, Mender, Step};
use super::{task, toolchain};

/// Components with the program by which they are known.
const COMPONENTS: [(&str, &str); 2] = [("clippy", "bin/cargo-clippy"), ("rustfmt", "bin/cargo-fmt")];

pub struct Components;

impl Step for Components {
    fn name(&self) -> &'static str {
        "rust"
    }

    fn look(&self) -> Result<Look> {
        let toolchain = toolchain::current()?;
        let missing = missing(&toolchain.sysroot);
        let lack = || Lack {
            what: format!("components of Rust {}: {}", toolchain.version, missing.join(", ")),
            remedy: format!("rustup component add {} --toolchain {}", missing.join(" "), toolchain.name()),
            mender: Mender::Setup,
        };
        let lacks = if missing.is_empty() { Vec::new() } else { vec![lack()] };
        Ok(Look::new(format!("{} with {}", toolchain.version, COMPONENTS.map(|(name, _)| name).join(", ")), lacks))
    }

    fn mend(&self) -> Result<()> {
        let toolchain = toolchain::current()?;
        let mut rustup = Command::new("rustup");
        rustup.args(["component", "add", "--toolchain", &toolchain.name()]).args(missing(&toolchain.sysroot));
        task::run(self.name(), "asking rustup", &mut rustup).context("only rustup brings components of its toolchains")
    }
}

fn missing(sysroot: &Path) -> Vec<&'static str> {
    COMPONENTS.iter().filter(|(_, program)| !sysroot.join(program).exists()).map(|(name, _)| *name).collect()
}
