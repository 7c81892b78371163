//! The socket hooks: programs attached to a control group, pinned so that they outlive the agent.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::attach::Attached;
use super::pins::{self, PinPath};
use super::programs::{Programs, SOCKET_PROGRAMS};
use super::sys;

/// Which sockets are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SocketLb {
    /// Those of the node's own network namespace: the host's processes and pods with host network.
    #[default]
    Host,
    /// Those of pods, too, for TCP.
    All,
    /// None.
    Off,
}

/// The socket hooks cannot be attached, or not be removed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct SocketHookError {
    action: String,
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The links of the hooks.
#[derive(Debug, Default)]
pub struct SocketHooks {
    links: Vec<OwnedFd>,
}

impl SocketHooks {
    /// Sees to it that every hook is attached to a control group and nowhere else.
    ///
    /// A pinned link of an earlier agent gets the new program, between two calls of a process.
    ///
    /// # Errors
    /// When the kernel refuses; some hooks may be attached then.
    pub fn attach(&mut self, programs: &Programs, pins: &PinPath, path: PathBuf) -> Result<Attached, SocketHookError> {
        let error = |action: String, source| SocketHookError { action, path: path.clone(), source };
        let opening = |source: io::Error| error("opening the control group".to_owned(), source.into());
        let group = File::open(&path).map_err(opening)?;
        // The number of a control group is that of its folder.
        let id = group.metadata().map_err(opening)?.ino();
        if self.is_intact(pins, id) {
            return Ok(Attached::Unchanged);
        }
        let was_attached = !self.links.is_empty();
        self.links.clear();
        let mut is_adopted = true;
        for hook in &SOCKET_PROGRAMS {
            let failed = |source| error(format!("attaching {} to the control group", hook.name), source);
            let program = programs.socket_hook(hook.name).map_err(|source| failed(source.into()))?;
            let pin = pins.socket_link(hook.name);
            let pinned = match sys::open_pin(&pin) {
                Ok(link) => Some(link),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(failed(error.into())),
            };
            if let Some(link) = pinned {
                let info = sys::link_info(link.as_fd()).map_err(|source| failed(source.into()))?;
                if info.is_of_cgroup(id, hook.attach_type) && sys::link_update(link.as_fd(), program.as_fd()).is_ok() {
                    self.links.push(link);
                    continue;
                }
                pins::remove(&pin).map_err(|source| failed(source.into()))?;
            }
            is_adopted = false;
            let link = sys::cgroup_link_create(program.as_fd(), group.as_fd(), hook.attach_type)
                .and_then(|link| sys::pin(link.as_fd(), &pin).map(|()| link));
            self.links.push(link.map_err(|source| failed(source.into()))?);
        }
        Ok(match (was_attached, is_adopted) {
            (true, _) => Attached::Repaired,
            (false, true) => Attached::Adopted,
            (false, false) => Attached::New,
        })
    }

    /// Whether all links are pinned and attached to the group.
    fn is_intact(&self, pins: &PinPath, id: u64) -> bool {
        self.links.len() == SOCKET_PROGRAMS.len()
            && SOCKET_PROGRAMS.iter().zip(&self.links).all(|(hook, link)| {
                pins.socket_link(hook.name).exists()
                    && sys::link_info(link.as_fd()).is_ok_and(|info| info.is_of_cgroup(id, hook.attach_type))
            })
    }

    /// Removes the hooks, also those of an earlier agent. Returns whether there were any.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn detach(&mut self, pins: &PinPath) -> Result<bool, SocketHookError> {
        self.links.clear();
        let mut were_there = false;
        for hook in &SOCKET_PROGRAMS {
            let path = pins.socket_link(hook.name);
            were_there |= pins::remove(&path).map_err(|source| SocketHookError {
                action: "detaching the socket hook".to_owned(),
                path,
                source: source.into(),
            })?;
        }
        Ok(were_there)
    }
}
