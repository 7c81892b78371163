//! Go, which Kubernetes' own programs are written in.
//!
//! Go of another version can fetch the one that is wanted: it is a module like any other, and its checksum is in Go's
//! public database. Since 1.21 the go command does so by itself, Debian 12's (1.19) can be led to it.

use std::env::consts::ARCH;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use proxy_testkit::cache;

use super::step::{Lack, Look, Mender, Step};
use super::{packages, task};

/// The version that is fetched. What the module wants at least is in its go.mod.
const VERSION: &str = "1.26.8";
/// The oldest that is used as it is.
const OLDEST: (u32, u32) = (1, 26);
/// Debian's package, to begin with.
const PACKAGE: &str = "golang-go";

pub struct Go;

impl Step for Go {
    fn name(&self) -> &'static str {
        "go"
    }

    fn look(&self) -> Result<Look> {
        if let Some((path, version)) = find() {
            return Ok(Look::Here(format!("{version} ({})", path.display())));
        }
        Ok(Look::Lacking(vec![Lack {
            what: format!("Go {}.{} or later", OLDEST.0, OLDEST.1),
            remedy: "see https://go.dev/doc/install".into(),
            // Any Go can fetch another one.
            mender: if any().is_some() { Mender::Setup } else { Mender::SetupAsRoot },
        }]))
    }

    fn mend(&self) -> Result<()> {
        if any().is_none() {
            packages::install(self.name(), &[PACKAGE])?;
        }
        let go = any().with_context(|| format!("{PACKAGE} is installed, and there is no go"))?;
        let target = fetched()?;
        let workshop = cache::folder()?.join("workshop-go");
        clear(&workshop)?;
        fs::create_dir_all(&workshop).with_context(|| format!("could not make {}", workshop.display()))?;
        let arch = if ARCH == "aarch64" { "arm64" } else { "amd64" };
        let module = format!("golang.org/toolchain@v0.0.1-go{VERSION}.linux-{arch}");
        let mut download = Command::new(go);
        // In a folder without a module. The cache is ours, so that it can be moved away in the end.
        download.args(["mod", "download", "-modcacherw", &module]).current_dir(&workshop);
        download.env("GOPATH", workshop.join("go")).env("GOCACHE", workshop.join("cache"));
        download.env("GOMODCACHE", workshop.join("go/pkg/mod")).env("GOTOOLCHAIN", "local").env("GOFLAGS", "");
        task::run(self.name(), &format!("downloading Go {VERSION} by {PACKAGE}"), &mut download)?;
        let unpacked = workshop.join("go/pkg/mod").join(&module);
        make_usable(&unpacked)?;
        clear(&target)?;
        fs::rename(&unpacked, &target).with_context(|| format!("could not move it to {}", target.display()))?;
        clear(&workshop)
    }
}

/// The Go to use.
pub fn command() -> Result<Command> {
    let (path, _) = find().context("there is no Go")?;
    let mut go = Command::new(path);
    // Whatever the user has set for other work.
    go.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly").env("GOWORK", "off").env_remove("GOROOT");
    Ok(go)
}

/// A Go that is new enough, and its version.
fn find() -> Option<(PathBuf, String)> {
    candidates().into_iter().find_map(|path| {
        let version = version(&path)?;
        is_new_enough(&version).then_some((path, version))
    })
}

/// A Go of any version.
fn any() -> Option<PathBuf> {
    candidates().into_iter().find(|path| version(path).is_some())
}

fn candidates() -> Vec<PathBuf> {
    let mut candidates = vec![PathBuf::from("go"), PathBuf::from("/usr/local/go/bin/go")];
    candidates.extend(fetched().map(|folder| folder.join("bin/go")));
    candidates
}

/// Where the one that setup fetches is kept.
fn fetched() -> Result<PathBuf> {
    Ok(cache::folder()?.join(format!("go-{VERSION}")))
}

/// As in `go1.26.8`.
fn version(go: &Path) -> Option<String> {
    let mut command = Command::new(go);
    command.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").env_remove("GOROOT");
    let version = task::output(&mut command).ok()?.trim().to_owned();
    (!version.is_empty()).then_some(version)
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.trim_start_matches("go").split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => false,
    }
}

/// A module has no executable files and no other module within. What the go command does about that when it fetches a
/// toolchain by itself (`cmd/go/internal/toolchain/select.go`).
fn make_usable(toolchain: &Path) -> Result<()> {
    for folder in [toolchain.join("bin"), toolchain.join("pkg/tool")] {
        allow_to_run(&folder)?;
    }
    for folder in ["src", "src/cmd"] {
        let folder = toolchain.join(folder);
        fs::rename(folder.join("_go.mod"), folder.join("go.mod"))
            .with_context(|| format!("could not rename _go.mod in {}", folder.display()))?;
    }
    Ok(())
}

fn allow_to_run(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            allow_to_run(&path)?;
        } else {
            fs::set_permissions(&path, Permissions::from_mode(0o755))
                .with_context(|| format!("could not make {} executable", path.display()))?;
        }
    }
    Ok(())
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("could not remove {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(is_new_enough("go1.26.8") && is_new_enough("go1.100") && is_new_enough("go2.0.1"));
        assert!(!is_new_enough("go1.19.8") && !is_new_enough("go1.9") && !is_new_enough("devel"));
        assert!(!is_new_enough("go1.26rc1"));
    }
}
