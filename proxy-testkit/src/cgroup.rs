//! Control groups (v2) as guards: the processes of a lab's node are in one, so that programs attached to it see their
//! sockets and nobody else's.
//!
//! They are made below the group of the running program and are *threaded*, which lets one thread of the program be in a
//! group of its own: a client's. A socket belongs to the group that its thread was in when it made it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::teardown::{self, Undo};

/// A control group, removed on drop.
#[derive(Debug)]
pub struct Cgroup {
    handle: CgroupHandle,
    _undo: Undo,
}

/// A way into a control group.
#[derive(Clone, Debug)]
pub struct CgroupHandle {
    path: Arc<Path>,
}

impl Cgroup {
    /// Makes the group `name` below the running program's own. `None` where no version 2 hierarchy is mounted.
    pub fn create(name: &str) -> Result<Option<Self>> {
        let Some(own) = own_folder()? else { return Ok(None) };
        let path = own.join(name);
        let ((), undo) = teardown::step(|| {
            fs::create_dir(&path).with_context(|| format!("cannot make the control group {}", path.display()))?;
            let path = path.clone();
            Ok(((), move || remove(&path)))
        })?;
        let kind = path.join("cgroup.type");
        fs::write(&kind, "threaded").with_context(|| format!("cannot write `threaded` to {}", kind.display()))?;
        Ok(Some(Self { handle: CgroupHandle { path: path.into() }, _undo: undo }))
    }

    /// A way in that can be given away.
    pub fn handle(&self) -> &CgroupHandle {
        &self.handle
    }
}

impl CgroupHandle {
    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread into the group, for good.
    pub fn enter(&self) -> io::Result<()> {
        // 0 is the thread that writes.
        fs::write(self.path.join("cgroup.threads"), "0")
    }

    /// Has a command run inside the group.
    pub fn put(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt;
        let group = std::ffi::CString::new(self.path.join("cgroup.procs").into_os_string().into_encoded_bytes());
        // SAFETY: between fork and exec there are nothing but system calls, without allocation or locks.
        unsafe {
            command.pre_exec(move || {
                let Ok(group) = &group else { return Err(io::ErrorKind::InvalidInput.into()) };
                let file = nix::libc::open(group.as_ptr(), nix::libc::O_WRONLY | nix::libc::O_CLOEXEC);
                // 0 is the process that writes.
                if file < 0 || nix::libc::write(file, c"0".as_ptr().cast(), 1) != 1 {
                    return Err(io::Error::last_os_error());
                }
                nix::libc::close(file);
                Ok(())
            });
        }
    }
}

/// The folder of the running program's own group in the version 2 hierarchy.
pub(crate) fn own_folder() -> Result<Option<PathBuf>> {
    let groups = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(own.zip(mount_point(&mounts)).map(|(own, mount)| mount.join(own.trim_start_matches('/'))))
}

/// Where the root of the version 2 hierarchy is mounted, by lines of proc_pid_mountinfo(5).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (source.starts_with("cgroup2 ") && root == "/").then(|| point.into())
    })
}

/// Removes a group; whoever is still inside is the lab's and about to end.
fn remove(path: &Path) {
    for _ in 0..100 {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            _ => return,
        }
    }
    eprintln!("the control group {} is still in use and stays", path.display());
}

#[cfg(test)]
mod tests {
    use super::mount_point;

    #[test]
    fn the_mount_is_found_beside_version_1() {
        let mounts = "\
            31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified".into()));
    }
}
