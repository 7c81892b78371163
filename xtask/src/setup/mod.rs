//! `cargo xtask setup`: from a fresh Debian 12 with rustup's stable Rust to where everything builds and runs.
//!
//! A setup is a list of [`Step`]s. All of them are looked at first. What this process cannot mend (a kernel that lacks
//! something, no root) is then told at once and in full, and nothing is touched; else each step with something missing
//! is mended, in order, and looked at again. So a second run finds nothing to do and only looks, which takes well
//! under two seconds.
//!
//! Absent on purpose: undoing, and any version older or newer than the one that is known to work.

mod bpf_linker;
mod bpffs;
mod cargo_fuzz;
mod components;
mod core_source;
mod debian;
mod go;
mod go_program;
mod kernel;
mod link_kind;
mod packages;
mod step;
mod task;
mod toolchain;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use proxy_testkit::cluster::programs::Program;
use step::{Lack, Look, Mender, Step};

/// What the machine is to be fit for.
/// What each needs is part of what the next one needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// To compile, lint and run the tests that stay in user space. Takes no root where the packages are there.
    Build,
    /// To run the fuzzer as well.
    Fuzz,
    /// To load programs into the kernel and to make networks as well. Takes root.
    Kernel,
    /// To run Kubernetes' control plane as well: Go, and what is built with it.
    Cluster,
}

/// The verb: does what is missing, with a line for each step.
pub fn run() -> Result<()> {
    bring_about(Needs::Kernel, true)
}

/// What every other verb begins with: as [`run`], but silent where there is nothing to do.
pub fn ensure(needs: Needs) -> Result<()> {
    bring_about(needs, false)
}

/// The folder of the toolchain that called us.
pub fn sysroot() -> Result<PathBuf> {
    Ok(toolchain::current()?.sysroot)
}

/// Builds one more program in Go, with a Go that is brought where it is missing.
pub fn build_go_program(program: Program) -> Result<()> {
    carry_out(vec![Box::new(go::Go), Box::new(go_program::GoProgram(program))], false)
}

fn steps(needs: Needs) -> Vec<Box<dyn Step>> {
    let mut steps: Vec<Box<dyn Step>> = Vec::new();
    if needs >= Needs::Kernel {
        steps.push(Box::new(kernel::Kernel));
    }
    steps.push(Box::new(packages::Packages));
    steps.push(Box::new(components::Components));
    steps.push(Box::new(core_source::CoreSource));
    steps.push(Box::new(bpf_linker::BpfLinker));
    if needs == Needs::Fuzz {
        steps.push(Box::new(cargo_fuzz::CargoFuzz));
    }
    if needs >= Needs::Kernel {
        steps.push(Box::new(bpffs::Bpffs));
    }
    if needs >= Needs::Cluster {
        steps.push(Box::new(go::Go));
        steps.push(Box::new(go_program::GoProgram(Program::Kubernetes)));
    }
    steps
}

/// A step with what was seen of it.
struct Looked {
    step: Box<dyn Step>,
    look: Look,
    took: Duration,
}

fn bring_about(needs: Needs, is_told_in_full: bool) -> Result<()> {
    carry_out(steps(needs), is_told_in_full)
}

fn carry_out(steps: Vec<Box<dyn Step>>, is_told_in_full: bool) -> Result<()> {
    let looked = steps.into_iter().map(look_at).collect::<Result<Vec<_>>>()?;
    let is_root = nix::unistd::geteuid().is_root();
    let blocked = |lack: &Lack| !lack.mender.is_us(is_root);
    if looked.iter().any(|looked| looked.look.lacks().iter().any(blocked)) {
        tell_all(&looked, is_root);
        bail!("this machine is not ready, see above: nothing was changed");
    }
    for Looked { step, look, took } in looked {
        match look {
            Look::Here(_) if !is_told_in_full => {}
            Look::Here(what) => step::tell_ok(step.name(), took, &what),
            Look::Lacking(_) => {
                let start = Instant::now();
                step.mend().with_context(|| format!("setup could not finish step `{}`", step.name()))?;
                match step.look()? {
                    Look::Here(what) => step::tell_ok(step.name(), start.elapsed(), &what),
                    Look::Lacking(lacks) => {
                        step::tell_missing(step.name(), start.elapsed(), &lacks, is_root);
                        bail!("step `{}` went through and yet something is missing", step.name());
                    }
                }
            }
        }
    }
    Ok(())
}

fn look_at(step: Box<dyn Step>) -> Result<Looked> {
    let start = Instant::now();
    let look = step.look().with_context(|| format!("setup could not look at step `{}`", step.name()))?;
    Ok(Looked { step, look, took: start.elapsed() })
}

fn tell_all(looked: &[Looked], is_root: bool) {
    for Looked { step, look, took } in looked {
        match look {
            Look::Here(what) => step::tell_ok(step.name(), *took, what),
            Look::Lacking(lacks) => step::tell_missing(step.name(), *took, lacks, is_root),
        }
    }
    let is_root_wanted = |lack: &Lack| lack.mender == Mender::SetupAsRoot && !is_root;
    if looked.iter().any(|looked| looked.look.lacks().iter().any(is_root_wanted)) {
        println!("\nOr let setup do what needs root: sudo env \"PATH=$PATH\" cargo xtask setup");
    }
}
