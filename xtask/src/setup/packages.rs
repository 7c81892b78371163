//! Debian packages, by apt.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::step::{Lack, Look, Mender, Step};
use super::task;

/// What is installed, by what it is for.
const PACKAGES: [&[&str]; 6] = [
    // Rust crates, among them those with C in them.
    &["build-essential", "pkg-config", "ca-certificates"],
    // bpf-linker: the LLVM that it links to, and what that links to.
    &["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev"],
    // The labs and the demo.
    &["iproute2", "iputils-ping", "nftables"],
    // kube-proxy, which the bench measures against, in its mode iptables.
    &["iptables"],
    // The cluster's certificates.
    &["openssl"],
    // Looking in.
    &["bpftool", "tcpdump"],
];

pub struct Packages;

impl Step for Packages {
    fn name(&self) -> &'static str {
        "packages"
    }

    fn look(&self) -> Result<Look> {
        let Some(installed) = installed() else {
            return Ok(Look::Lacking(vec![Lack {
                what: "dpkg and apt: setup knows Debian only".into(),
                remedy: format!("install by hand what these Debian packages hold: {}", names().join(" ")),
                mender: Mender::Owner,
            }]));
        };
        let missing = missing(&installed);
        let lacks = if missing.is_empty() {
            Vec::new()
        } else {
            vec![Lack {
                what: format!("packages {}", missing.join(", ")),
                remedy: format!("as root: apt-get install {}", missing.join(" ")),
                mender: Mender::SetupAsRoot,
            }]
        };
        Ok(Look::new(format!("all {} installed", names().len()), lacks))
    }

    fn mend(&self) -> Result<()> {
        install(self.name(), &missing(&installed().context("dpkg is gone")?)).context(
            "apt could not install all packages; if it knows no llvm-22-dev: in Debian 12 that is part of the security \
             updates (bookworm-security), which have to be among apt's sources",
        )
    }
}

/// Installs packages, for a step.
pub fn install(step: &str, names: &[&str]) -> Result<()> {
    task::run(step, "reading the lists of packages", apt_get().arg("update"))?;
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends"]).args(names);
    task::run(step, &format!("installing {} packages", names.len()), &mut install)
}

fn apt_get() -> Command {
    let mut apt_get = Command::new("apt-get");
    apt_get.args(["--quiet", "-o", "DPkg::Lock::Timeout=300"]).env("DEBIAN_FRONTEND", "noninteractive");
    apt_get
}

fn names() -> Vec<&'static str> {
    PACKAGES.concat()
}

/// What dpkg says about our packages; `None` where there is no dpkg.
fn installed() -> Option<String> {
    // Fails where it has never heard of one of them, and tells of the others all the same.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(names())
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn missing(installed: &str) -> Vec<&'static str> {
    let is_installed = |name: &&str| installed.lines().any(|line| line.split_once(' ') == Some((*name, "installed")));
    names().into_iter().filter(|name| !is_installed(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_package_is_missing_and_so_is_an_unknown_one() {
        let all = names();
        let lines = |names: &[&str]| names.iter().map(|name| format!("{name} installed\n")).collect::<String>();
        assert!(missing(&lines(&all)).is_empty());
        let (first, rest) = all.split_first().expect("there are packages");
        assert_eq!(missing(&lines(rest)), [*first]);
        assert_eq!(missing(&format!("{first} config-files\n{}", lines(rest))), [*first]);
    }
}
