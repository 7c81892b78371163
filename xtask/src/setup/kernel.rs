//! What the running kernel, and our standing in it, must offer. Setup can bring none of it: it tells.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use super::link_kind;
use super::step::{Lack, Look, Mender, Step};

/// The oldest kernel that has all that the programs use.
const OLDEST: (u32, u32) = (5, 10);
/// Bits of the effective capabilities that are asked for, with their names.
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];
/// The kinds of network devices that the labs and the demo are built of, with what turns them on.
const LINK_KINDS: [(&str, &str); 2] = [("veth", "CONFIG_VETH"), ("bridge", "CONFIG_BRIDGE")];

pub struct Kernel;

impl Step for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn look(&self) -> Result<Look> {
        let release = read("/proc/sys/kernel/osrelease")?;
        let release = release.trim();
        let mut lacks = Vec::new();
        lacks.extend(standing()?);
        if version_of(release).is_some_and(|version| version < OLDEST) {
            let (major, minor) = OLDEST;
            lacks.push(owner(
                format!("a kernel of version {major}.{minor} or newer: this is {release}"),
                format!("boot a newer one; Debian 12 has 6.1: apt-get install {}", debian_kernel()),
            ));
        }
        // Its presence does not depend on its value, and means CONFIG_BPF_SYSCALL.
        if !Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists() {
            lacks.push(configuration("BPF (the system call bpf)", "CONFIG_BPF_SYSCALL=y"));
        }
        if !has_filesystem(&read("/proc/filesystems")?, "bpf") {
            lacks.push(configuration("bpffs (the file system that holds pinned maps)", "CONFIG_BPF_SYSCALL=y"));
        }
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            lacks.push(configuration("BTF of the kernel (/sys/kernel/btf/vmlinux)", "CONFIG_DEBUG_INFO_BTF=y"));
        }
        for (kind, option) in LINK_KINDS {
            // Without root it cannot be tried; that is lacking then anyway.
            if geteuid().is_root() && link_kind::is_known(kind)? == Some(false) {
                lacks.push(configuration(&format!("network devices of kind {kind}"), option));
            }
        }
        let kinds = LINK_KINDS.map(|(kind, _)| kind).join(", ");
        Ok(Look::new(format!("{release} with BPF, bpffs, BTF, {kinds}"), lacks))
    }

    fn mend(&self) -> Result<()> {
        bail!("setup cannot change the running kernel")
    }
}

/// What we lack to be the root that loads programs and makes networks.
fn standing() -> Result<Option<Lack>> {
    let uid = geteuid();
    if !uid.is_root() {
        return Ok(Some(Lack {
            what: format!("root: this is user {uid}, who may not load BPF programs or make network namespaces"),
            remedy: "run as root: sudo env \"PATH=$PATH\" cargo xtask …".into(),
            mender: Mender::Owner,
        }));
    }
    let status = read("/proc/self/status")?;
    let effective = effective_capabilities(&status).context("no CapEff in /proc/self/status")?;
    let absent: Vec<_> =
        CAPABILITIES.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect();
    if !absent.is_empty() {
        return Ok(Some(owner(
            format!("{}: this root may not load BPF programs and make network namespaces", absent.join(", ")),
            "in a container: start it with --privileged".into(),
        )));
    }
    if !is_first_user_namespace(&read("/proc/self/uid_map")?) {
        return Ok(Some(owner(
            "root of the machine: this is the root of a user namespace, to whom bpf is closed".into(),
            "run as the machine's own root; in a container, one that is not rootless".into(),
        )));
    }
    Ok(None)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {path}: is it mounted?"))
}

fn owner(what: String, remedy: String) -> Lack {
    Lack { what, remedy, mender: Mender::Owner }
}

fn configuration(what: &str, option: &str) -> Lack {
    let remedy = format!("boot a kernel with {option}, as Debian's own: apt-get install {}", debian_kernel());
    owner(what.into(), remedy)
}

fn debian_kernel() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "linux-image-arm64",
        _ => "linux-image-amd64",
    }
}

/// The first two numbers of a kernel's release.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn has_filesystem(filesystems: &str, name: &str) -> bool {
    filesystems.lines().any(|line| line.split_whitespace().last() == Some(name))
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The first user namespace maps every id to itself.
fn is_first_user_namespace(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version_of("6.18.44-fc-v769"), Some((6, 18)));
        assert_eq!(version_of("5.9-rc1"), Some((5, 9)));
        assert_eq!(version_of("strange"), None);
        assert!(version_of("5.9.0-1") < Some(OLDEST));
        assert!(version_of("5.10.0-39-amd64") >= Some(OLDEST));
    }

    #[test]
    fn the_file_system_is_bpf_and_not_its_like() {
        assert!(has_filesystem("nodev\tsysfs\nnodev\tbpf\n\text4\n", "bpf"));
        assert!(!has_filesystem("nodev\tsysfs\nnodev\tbpfilter\n", "bpf"));
    }

    #[test]
    fn capabilities_are_read_as_the_kernel_prints_them() {
        let status = "Name:\txtask\nCapPrm:\t0000000000000000\nCapEff:\t00000000a80425fb\n";
        let effective = effective_capabilities(status).expect("there is a line");
        assert_eq!(effective & (1 << 12), 0);
        assert_ne!(effective & 1, 0);
        assert_eq!(effective_capabilities("Name:\txtask\n"), None);
    }

    #[test]
    fn a_user_namespace_is_told_from_the_first() {
        assert!(is_first_user_namespace("         0          0 4294967295\n"));
        assert!(!is_first_user_namespace("         0       1000          1\n"));
    }
}
