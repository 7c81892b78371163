//! Where the control groups of version 2 are, which the socket hooks are attached to.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A control group to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its folder.
    pub path: PathBuf,
    /// It is the root of all: no process is outside of it.
    pub is_root: bool,
}

impl Cgroup {
    /// The group of a folder.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        // Every group has this file but the root (Documentation/admin-guide/cgroup-v2.rst).
        let is_root = path.join("cgroup.procs").exists() && !path.join("cgroup.type").exists();
        Self { path, is_root }
    }

    /// The group nearest to the root among those that version 2 is mounted with, in whatever place: the root itself
    /// where it can be seen, with version 1 beside it or not. `None` where version 2 is not mounted.
    ///
    /// # Errors
    /// When /proc/self/mountinfo cannot be read.
    pub fn find() -> io::Result<Option<Self>> {
        let mounts = fs::read("/proc/self/mountinfo")?;
        let mut found: Vec<Mount> = mounts_of_version_2(&mounts);
        found.sort_by_key(|mount| (!Self::at(&mount.point).is_root, std::cmp::Reverse(mount.above)));
        Ok(found.into_iter().next().map(|mount| Self::at(mount.point)))
    }
}

/// Where a hierarchy of version 2 is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    /// How many levels above our own cgroup namespace the mount begins: those of the machine's own, handed into a
    /// container, begin above it.
    above: usize,
}

/// Reads lines of proc_pid_mountinfo(5).
fn mounts_of_version_2(mounts: &[u8]) -> Vec<Mount> {
    let mount = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let separator = fields.iter().position(|field| *field == b"-")?;
        if *fields.get(separator + 1)? != b"cgroup2" {
            return None;
        }
        let root = unescape(fields.get(3)?);
        let above = root.iter().filter(|part| *part == std::ffi::OsStr::new("..")).count();
        // Of other parts of the hierarchy only what is above us is nearer to the root.
        (above > 0 || root == Path::new("/")).then(|| Mount { point: unescape(fields[4]), above })
    };
    mounts.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mounts: &str) -> Vec<(String, usize)> {
        let mounts = mounts_of_version_2(mounts.as_bytes());
        mounts.into_iter().map(|mount| (mount.point.display().to_string(), mount.above)).collect()
    }

    #[test]
    fn version_2_alone_beside_version_1_and_in_containers() {
        let alone = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(found(alone), [("/sys/fs/cgroup".into(), 0)]);
        let beside = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(found(beside), [("/sys/fs/cgroup/unified".into(), 0)]);
        let container = "900 890 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n\
                         910 890 0:26 /../../../.. /host/sys/fs/cgroup rw master:4 - cgroup2 cgroup2 rw\n\
                         911 890 0:26 /kubepods /elsewhere rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found(container), [("/sys/fs/cgroup".into(), 0), ("/host/sys/fs/cgroup".into(), 4)]);
        let odd = "30 23 0:26 / /mnt/with\\040space\\134 rw - cgroup2 cgroup2 rw\nnonsense\n";
        assert_eq!(found(odd), [("/mnt/with space\\".into(), 0)]);
    }
}
