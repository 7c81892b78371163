//! The source of `core`, which is compiled for the BPF target with the programs (`-Zbuild-std=core`).
//!
//! From rustup where it can download components. Where it cannot, from Debian's package of the very same version,
//! kept in the user's cache folder (`cargo clean` leaves it alone) and linked from where cargo looks for it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use proxy_testkit::cache;

use super::step::{Lack, Look, Mender, Step};
use super::toolchain::{self, Toolchain};
use super::{debian, task};

pub struct CoreSource;

impl Step for CoreSource {
    fn name(&self) -> &'static str {
        "rust-src"
    }

    fn look(&self) -> Result<Look> {
        let toolchains = toolchain::in_use()?;
        let lacks = toolchains.iter().filter(|toolchain| !is_here(toolchain)).map(|toolchain| Lack {
            what: format!("the source of Rust {}'s core library for {}", toolchain.version, toolchain.name()),
            remedy: format!("rustup component add rust-src --toolchain {}", toolchain.name()),
            mender: Mender::Setup,
        });
        let lacks = lacks.collect();
        let names: Vec<_> = toolchains.iter().map(Toolchain::name).collect();
        Ok(Look::new(format!("core's source for {}", names.join(", ")), lacks))
    }

    fn mend(&self) -> Result<()> {
        for toolchain in toolchain::in_use()?.iter().filter(|toolchain| !is_here(toolchain)) {
            unlink(&toolchain.source())?;
            let Err(by_rustup) = add_by_rustup(self.name(), toolchain) else { continue };
            link_from_debian(self.name(), toolchain)
                .with_context(|| format!("rustup could not bring it ({by_rustup:#}), and Debian neither"))?;
        }
        Ok(())
    }
}

/// Whether cargo finds the source, of the toolchain's own version.
fn is_here(toolchain: &Toolchain) -> bool {
    let source = toolchain.source();
    // A link outlives an update of the toolchain in its folder; what rustup itself puts there does not.
    let is_of_version = fs::read_link(&source)
        .map_or(true, |target| target.to_string_lossy().ends_with(&format!("-{}", toolchain.version)));
    is_of_version && has_library(&source)
}

fn has_library(source: &Path) -> bool {
    source.join("library/Cargo.lock").exists() && source.join("library/core/Cargo.toml").exists()
}

/// Takes a link away that leads nowhere good, so that nothing is written through it.
fn unlink(source: &Path) -> Result<()> {
    if source.is_symlink() {
        fs::remove_file(source).with_context(|| format!("could not remove the link {}", source.display()))?;
    }
    Ok(())
}

fn add_by_rustup(step: &str, toolchain: &Toolchain) -> Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add", "rust-src", "--toolchain", &toolchain.name()]);
    task::run(step, "asking rustup", &mut rustup)?;
    if !is_here(toolchain) {
        bail!("rustup says it is there, but {} does not hold it", toolchain.source().display());
    }
    Ok(())
}

fn link_from_debian(step: &str, toolchain: &Toolchain) -> Result<()> {
    let source = cached(step, &toolchain.version)?;
    let link = toolchain.source();
    let parent = link.parent().context("a toolchain has folders")?;
    fs::create_dir_all(parent).with_context(|| format!("could not make {}", parent.display()))?;
    symlink(&source, &link).with_context(|| format!("could not link {} to {}", link.display(), source.display()))
}

/// The folder with the source of a version, which is fetched if it is not there yet.
fn cached(step: &str, version: &str) -> Result<PathBuf> {
    let cache = cache::folder()?;
    let source = cache.join(format!("rust-src-{version}"));
    if has_library(&source) {
        return Ok(source);
    }
    // All of it happens beside its place, and a rename puts it there: a half source is never found.
    let workshop = cache.join("workshop");
    remove(&workshop)?;
    fs::create_dir_all(&workshop).with_context(|| format!("could not make {}", workshop.display()))?;
    let fetched = debian::fetch_source(step, version, &workshop).and_then(|fetched| {
        if !has_library(&fetched) {
            bail!("Debian's package does not hold the library where it is expected ({})", fetched.display());
        }
        remove(&source)?;
        fs::create_dir(&source).with_context(|| format!("could not make {}", source.display()))?;
        let (from, to) = (fetched.join("library"), source.join("library"));
        fs::rename(&from, &to).with_context(|| format!("could not move {} to {}", from.display(), to.display()))
    });
    remove(&workshop)?;
    fetched.map(|()| source)
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("could not remove {}", folder.display()))?;
    }
    Ok(())
}
