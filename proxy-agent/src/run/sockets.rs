//! Keeping the socket hooks attached, and telling sockets whose backend is gone.

use std::io;
use std::path::PathBuf;

use crate::kernel::{Attached, Cgroup, LoadError, MapSet, PinPath, Programs, SocketHooks, SocketLb};
use crate::output::chain;
use crate::serve::Metrics;

/// The socket hooks of this node.
pub(super) struct Sockets {
    hooks: SocketHooks,
    pins: PinPath,
    /// Where they are attached; `None` where they are not.
    group: Option<Cgroup>,
    /// What has been reported and is still so.
    trouble: Option<String>,
    /// Backends have been freed, and sockets not looked through since.
    has_orphans: bool,
    /// It has been said that sockets cannot be aborted.
    is_left_known: bool,
}

impl Sockets {
    /// Loads the programs and finds out where they are to be attached. What is in the way is logged, and all else works
    /// without them.
    pub(super) fn new(mode: SocketLb, given: Option<PathBuf>, programs: &mut Programs, pins: PinPath) -> Self {
        let group = match prepare(mode, given, programs) {
            Ok(group) => group,
            Err(trouble) => {
                tracing::warn!("{trouble}: processes of this node itself do not reach Services");
                None
            }
        };
        Self { hooks: SocketHooks::default(), pins, group, trouble: None, has_orphans: false, is_left_known: false }
    }

    /// Goes on with other programs, which the hooks get when they are next attached.
    ///
    /// # Errors
    /// When the kernel refuses one. The hooks go on with the former ones.
    pub(super) fn replace(&mut self, programs: &mut Programs) -> Result<(), LoadError> {
        if self.are_served() {
            programs.load_socket_hooks()?;
            load_peer_lists(programs);
            self.hooks = SocketHooks::default();
        }
        Ok(())
    }

    /// Whether the node's own processes are served.
    pub(super) fn are_served(&self) -> bool {
        self.group.is_some()
    }

    /// Attaches the hooks where they are not, or removes those of an earlier agent that are not wanted. False if that has
    /// to be tried again.
    pub(super) fn reconcile(&mut self, programs: &Programs, metrics: &Metrics) -> bool {
        let result = match &self.group {
            Some(group) => self.hooks.attach(programs, &self.pins, group.path.clone()).map(|attached| {
                let path = group.path.display();
                match attached {
                    Attached::New => tracing::info!("control group {path}: socket hooks attached"),
                    Attached::Adopted => tracing::info!("control group {path}: socket hooks replaced"),
                    Attached::Repaired => {
                        metrics.repaired("socket", 1);
                        tracing::warn!("control group {path}: the socket hooks had been detached, and are back");
                    }
                    Attached::Unchanged => {}
                }
            }),
            None => self.hooks.detach(&self.pins).map(|were_there| {
                if were_there {
                    tracing::info!("socket hooks of an earlier agent removed");
                }
            }),
        };
        let trouble = result.err().map(|error| chain(&error).to_string());
        if let Some(trouble) = &trouble
            && self.trouble.as_ref() != Some(trouble)
        {
            tracing::error!("{trouble}; trying again");
        }
        self.trouble = trouble;
        self.trouble.is_none()
    }

    /// Has processes connect anew whose connected UDP sockets talk to a backend that is gone, if backends have been freed.
    /// What fails is tried again with the next round.
    pub(super) fn abort_orphans(&mut self, has_freed: bool, programs: &Programs, maps: &MapSet) {
        self.has_orphans |= has_freed;
        if !self.has_orphans || !self.are_served() {
            return;
        }
        match maps.abort_orphans(programs) {
            Ok(aborted) => {
                self.has_orphans = false;
                if aborted.sockets > 0 {
                    tracing::info!(
                        "{} connected UDP sockets of this node talked to backends that are gone: aborted",
                        aborted.sockets
                    );
                }
                if aborted.left > 0 && !self.is_left_known {
                    self.is_left_known = true;
                    tracing::warn!(
                        "{} connected UDP sockets of this node talk to backends that are gone, and this kernel (built \
                         without CONFIG_INET_DIAG_DESTROY) cannot abort them: they do so until they are closed",
                        aborted.left
                    );
                }
            }
            Err(error) => tracing::warn!("looking for sockets whose backend is gone: {}", chain(&error)),
        }
    }
}

fn load_peer_lists(programs: &mut Programs) {
    if let Err(error) = programs.load_peer_lists() {
        tracing::warn!(
            "{}: connected UDP sockets of this node stay with a backend that is gone until they are closed",
            chain(&error)
        );
    }
}

/// The group to attach to; `None` where nothing is to be attached.
fn prepare(mode: SocketLb, given: Option<PathBuf>, programs: &mut Programs) -> Result<Option<Cgroup>, String> {
    if mode == SocketLb::Off {
        return Ok(None);
    }
    let group = match given {
        Some(path) => Cgroup::at(path),
        None => Cgroup::find()
            .map_err(|error: io::Error| format!("looking for control groups of version 2: {error}"))?
            .ok_or("no control groups of version 2 are mounted (`mount -t cgroup2 none /sys/fs/cgroup/unified`)")?,
    };
    programs.load_socket_hooks().map_err(|error| chain(&error).to_string())?;
    load_peer_lists(programs);
    if !group.is_root {
        tracing::info!(
            "{} is not the root of the control groups: only processes below it reach Services from this node itself",
            group.path.display()
        );
    }
    Ok(Some(group))
}
