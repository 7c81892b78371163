//! Kubernetes' own programs: what they are built from, and where they are kept once they are.
//!
//! `cargo xtask` builds them, as a step of its setup. Absent on purpose: building, and any version but the one that
//! `proxy-testkit/kubernetes/go.mod` names.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::cache;

const GO_MOD: &str = include_str!("../../kubernetes/go.mod");
const GO_SUM: &str = include_str!("../../kubernetes/go.sum");
const MAIN: &str = include_str!("../../kubernetes/main.go");

/// A program in Go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kubectl in one, which acts by the name
    /// it is called by, or by its first argument.
    Kubernetes,
    /// kube-proxy by itself, to be measured.
    KubeProxy,
}

impl Program {
    /// The file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::KubeProxy => "kube-proxy",
        }
    }

    /// The package that `go build` takes, in the folder [`module`].
    pub fn package(self) -> &'static str {
        match self {
            Self::Kubernetes => ".",
            Self::KubeProxy => "k8s.io/kubernetes/cmd/kube-proxy",
        }
    }

    /// Where it is kept: a folder of its own for each version and recipe.
    pub fn path(self) -> Result<PathBuf> {
        // Another release of Rust may hash otherwise. Then it is linked once more, which is soon done.
        let mut hasher = DefaultHasher::new();
        (GO_MOD, GO_SUM, MAIN, linker_flags()).hash(&mut hasher);
        let key = format!("kubernetes-{}-{:016x}", version(), hasher.finish());
        Ok(cache::folder()?.join(key).join(self.name()))
    }

    /// Its path, if it has been built.
    pub fn find(self) -> Result<PathBuf> {
        let path = self.path()?;
        ensure!(
            path.is_file(),
            "{} is not there: `cargo xtask cluster build` makes it, and `cargo xtask test cluster` does so by itself",
            path.display()
        );
        Ok(path)
    }
}

/// One of the programs within [`Program::Kubernetes`].
pub fn part(name: &str) -> Result<Command> {
    let mut command = Command::new(Program::Kubernetes.find()?);
    command.arg(name);
    Ok(command)
}

/// Kubernetes' version, as in `v1.37.2`.
pub fn version() -> &'static str {
    let required = |line: &'static str| line.trim().strip_prefix("k8s.io/kubernetes ").map(str::trim);
    GO_MOD.lines().find_map(required).unwrap_or("v0.0.0")
}

/// The module's folder.
pub fn module() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes")
}

/// What `go build -ldflags` takes. Without the version, clients and nodes would call themselves v0.0.0, and checks of
/// skew fail.
pub fn linker_flags() -> String {
    let version = version();
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let mut flags = "-s -w".to_owned();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in
            [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor), ("gitTreeState", "clean")]
        {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_module() {
        assert!(version().starts_with("v1."), "{}", version());
        assert!(linker_flags().contains(&format!("client-go/pkg/version.gitVersion={}", version())));
    }
}
