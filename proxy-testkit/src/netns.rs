//! Network namespaces as guards, and running code and commands inside them.
//!
//! Names are `pm<pid><lab>-<label>`, under `/run/netns` where `ip netns` finds them too. Commands enter by setns(2) and not by
//! `ip netns exec`, which would hide bpffs from them.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup;
use crate::shell;
use crate::teardown::{self, Undo};

const FOLDER: &str = "/run/netns";

/// A network namespace, removed on drop.
#[derive(Debug)]
pub struct NetNs {
    handle: NsHandle,
    _undo: Undo,
}

/// A way into a network namespace. Holding one does not keep the name alive.
#[derive(Clone, Debug)]
pub struct NsHandle {
    name: Arc<str>,
    file: Arc<File>,
}

impl NetNs {
    /// Makes the namespace `name`, with its loopback device up.
    pub fn create(name: &str) -> Result<Self> {
        let path = Path::new(FOLDER).join(name);
        let (file, undo) = teardown::step(|| {
            // A Ctrl-C on a terminal reaches `ip` as well, and may stop it half way.
            shell::run(Command::new("ip").args(["netns", "add", name])).inspect_err(|_| remove(&path))?;
            let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            let path = path.clone();
            Ok((file, move || remove(&path)))
        })?;
        let handle = NsHandle { name: name.into(), file: Arc::new(file) };
        handle.ip("link set lo up")?;
        Ok(Self { handle, _undo: undo })
    }

    /// A way in that can be given away.
    pub fn handle(&self) -> &NsHandle {
        &self.handle
    }
}

impl std::ops::Deref for NetNs {
    type Target = NsHandle;

    fn deref(&self) -> &NsHandle {
        &self.handle
    }
}

impl NsHandle {
    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path that `nsenter --net=` takes.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&*self.name)
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&*self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs a closure on a thread inside the namespace and waits for it. A panic goes through to the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let result = thread::scope(|scope| {
            let inside = || -> io::Result<T> {
                self.enter()?;
                Ok(work())
            };
            let thread = thread::Builder::new().name(self.name.to_string()).spawn_scoped(scope, inside);
            thread.map(|thread| thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
        });
        result.and_then(|inner| inner).with_context(|| format!("cannot work inside namespace {}", self.name))
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.file);
        // SAFETY: between fork and exec there is nothing but one system call, without allocation or locks.
        unsafe { command.pre_exec(move || Ok(setns(&*file, CloneFlags::CLONE_NEWNET)?)) };
        command
    }

    /// Runs lines of `ip` commands, all in one process.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = self.command("ip");
        shell::run_with_input(command.args(["-batch", "-"]), &unindent(lines))
            .with_context(|| format!("in namespace {}", self.name))?;
        Ok(())
    }

    /// Runs an nft script.
    pub fn nft(&self, script: &str) -> Result<()> {
        shell::run_with_input(self.command("nft").args(["-f", "-"]), script)
            .with_context(|| format!("in namespace {}", self.name))?;
        Ok(())
    }

    /// Sets sysctls under `net.`, each written `path/below/net = value`, which works for device names with dots.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                let path = format!("/proc/sys/net/{name}");
                fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))?;
            }
            Ok(())
        })?
    }
}

/// `ip -batch` takes neither indentation before a comment nor `ip` itself; empty lines are fine.
fn unindent(lines: &str) -> String {
    lines.lines().map(|line| format!("{}\n", line.trim())).collect()
}

/// Removes the name; the namespace itself goes with its last process and socket.
fn remove(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// The process that a lab's name tells of: `pm123a-node1` and `pointsman-lab-123a-node1` are process 123's.
fn owner(name: &str) -> Option<i32> {
    let rest = name.strip_prefix("pointsman-lab-").or_else(|| name.strip_prefix("pm"))?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    // The lab's letter follows: names that others chose are left alone.
    rest[digits..].chars().next().filter(char::is_ascii_lowercase)?;
    rest[..digits].parse().ok()
}

fn is_stale(name: &str) -> bool {
    owner(name).is_some_and(|pid| kill(Pid::from_raw(pid), None).is_err())
}

/// Removes what labs of processes that no longer live have left: processes inside their namespaces, the namespaces,
/// folders in the temporary folder and under bpffs, control groups.
pub fn sweep() {
    for name in names_in(Path::new(FOLDER)).filter(|name| is_stale(name)) {
        let inside = shell::run(Command::new("ip").args(["netns", "pids", &name])).unwrap_or_default();
        for pid in inside.split_whitespace().filter_map(|word| word.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        remove(&Path::new(FOLDER).join(name));
    }
    for folder in [std::env::temp_dir(), PathBuf::from("/sys/fs/bpf")] {
        for name in names_in(&folder).filter(|name| is_stale(name)) {
            let _ = fs::remove_dir_all(folder.join(name));
        }
    }
    if let Ok(Some(folder)) = cgroup::own_folder() {
        for name in names_in(&folder).filter(|name| is_stale(name)) {
            let _ = fs::remove_dir(folder.join(name));
        }
    }
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn a_lab_s_names_tell_their_process() {
        assert_eq!(owner("pm123a-node1"), Some(123));
        assert_eq!(owner("pm123ba-node1"), Some(123));
        assert_eq!(owner("pointsman-lab-45b-node2"), Some(45));
        assert_eq!(owner("pm-other"), None);
        assert_eq!(owner("pm123"), None);
        assert_eq!(owner("pointsman"), None);
    }
}
