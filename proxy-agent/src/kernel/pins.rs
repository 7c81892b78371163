//! The folder of pins, and who may write in it.
//!
//! ```text
//! <pin path>/v<LAYOUT>-<number>/<map>
//! <pin path>/current                     a symbolic link to the set of maps that the programs use
//! <pin path>/links/<ifindex>-in
//! <pin path>/links/<ifindex>-out
//! <pin path>/links/<ifindex>-xdp         uplinks
//! <pin path>/links/<program>             socket hooks
//! ```
//!
//! An agent holds a lock (flock) on the pin path itself. So it is seen by every other agent that has the same
//! folder, in whatever namespaces it lives, and the kernel lets go of it when the agent dies.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::statfs;

use super::Direction;
use super::error::PinError;

/// Where an agent pins what outlives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinPath(PathBuf);

/// A set of maps, as its folder is named. Numbers go up, whatever the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedSet {
    pub folder: PathBuf,
    pub layout: u32,
    pub number: u32,
}

impl NamedSet {
    fn of(folder: PathBuf) -> Option<Self> {
        let name = folder.file_name()?.to_str()?.strip_prefix('v')?;
        let (layout, number) = name.split_once('-')?;
        let (layout, number) = (layout.parse().ok()?, number.parse().ok()?);
        Some(Self { folder, layout, number })
    }
}

/// Proof that no other agent uses a pin path. Ends when dropped.
#[derive(Debug)]
pub struct PinLock(#[expect(dead_code, reason = "held for its lock")] File);

impl PinPath {
    /// The pin path that agents use unless told otherwise.
    pub const DEFAULT: &str = "/sys/fs/bpf/pointsman";

    /// A pin path, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of the maps that the programs use: a symbolic link to a set.
    pub fn maps(&self) -> PathBuf {
        self.0.join("current")
    }

    /// The folder of the links.
    pub fn links(&self) -> PathBuf {
        self.0.join("links")
    }

    /// The set that `current` names, if it names one that is there.
    pub(super) fn current_set(&self) -> Result<Option<NamedSet>, PinError> {
        let link = self.maps();
        let name = match fs::read_link(&link) {
            Ok(name) => name,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PinError::Io { action: "reading the link", path: link, source }),
        };
        let set = NamedSet::of(self.0.join(name));
        Ok(set.filter(|set| set.folder.is_dir()))
    }

    /// The folders of all sets, of whatever layout.
    pub(super) fn sets(&self) -> Result<Vec<NamedSet>, PinError> {
        let mut sets: Vec<_> =
            list(&self.0)?.into_iter().filter(|path| path.is_dir()).filter_map(NamedSet::of).collect();
        sets.sort_by_key(|set| set.number);
        Ok(sets)
    }

    /// Makes an empty set. No set has been there under a higher number that programs still use.
    pub(super) fn make_set(&self, layout: u32, number: u32) -> Result<PathBuf, PinError> {
        let folder = self.0.join(format!("v{layout}-{number}"));
        match fs::create_dir(&folder) {
            Ok(()) => Ok(folder),
            Err(source) => Err(PinError::Io { action: "making the folder", path: folder, source }),
        }
    }

    /// Has `current` name a set, by one rename.
    pub(super) fn set_current(&self, folder: &Path) -> Result<(), PinError> {
        let (next, current) = (self.0.join("next"), self.maps());
        remove(&next)?;
        let name = folder.file_name().unwrap_or_default();
        symlink(name, &next).map_err(|source| PinError::Io {
            action: "making the link",
            path: next.clone(),
            source,
        })?;
        fs::rename(&next, &current).map_err(|source| PinError::Io { action: "replacing", path: current, source })
    }

    /// Removes a set. Maps that programs still use live on until those go.
    pub(super) fn remove_set(&self, set: &NamedSet) -> Result<(), PinError> {
        let folder = &set.folder;
        fs::remove_dir_all(folder).map_err(|source| PinError::Io { action: "removing", path: folder.clone(), source })
    }

    /// The link of a device.
    pub fn link(&self, ifindex: u32, direction: Direction) -> PathBuf {
        self.links().join(format!("{ifindex}-{direction}"))
    }

    /// The XDP link of a device.
    pub fn xdp_link(&self, ifindex: u32) -> PathBuf {
        self.links().join(format!("{ifindex}-xdp"))
    }

    /// The link of a socket hook, by its program's name.
    pub fn socket_link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Makes the folders and locks them.
    ///
    /// # Errors
    /// When the path is not on a BPF filesystem, cannot be made, or another agent has it.
    pub fn prepare(&self) -> Result<PinLock, PinError> {
        let there = self.0.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let found = statfs::statfs(there).map_err(|error| self.error("looking at", error.into()))?;
        if found.filesystem_type() != statfs::BPF_FS_MAGIC {
            return Err(PinError::NotBpf { path: self.0.clone() });
        }
        loop {
            fs::create_dir_all(&self.0).map_err(|error| self.error("making the folder", error))?;
            if let Some(lock) = self.lock()? {
                fs::create_dir_all(self.links()).map_err(|error| self.error("making the folders in", error))?;
                return Ok(lock);
            }
        }
    }

    /// Locks the pin path. `None` where there is none.
    ///
    /// # Errors
    /// When another agent has it.
    pub fn lock(&self) -> Result<Option<PinLock>, PinError> {
        let file = match File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.error("opening", error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PinError::Locked { path: self.0.clone() }),
            Err(TryLockError::Error(error)) => return Err(self.error("locking", error)),
        }
        // A cleanup may have removed the folder between the two calls: a lock on that one keeps nobody away.
        let inode = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let locked = file.metadata().map(inode).map_err(|error| self.error("looking at", error))?;
        match fs::metadata(&self.0).map(inode) {
            Ok(now) if now == locked => Ok(Some(PinLock(file))),
            _ => Ok(None),
        }
    }

    fn error(&self, action: &'static str, source: io::Error) -> PinError {
        PinError::Io { action, path: self.0.clone(), source }
    }

    /// The devices that links are pinned for, by ifindex.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn linked_devices(&self) -> Result<std::collections::BTreeSet<u32>, PinError> {
        let folder = self.links();
        let error = |source| PinError::Io { action: "reading the folder", path: folder.clone(), source };
        let mut devices = std::collections::BTreeSet::new();
        for entry in fs::read_dir(&folder).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            let ifindex =
                name.to_str().and_then(|name| name.split_once('-')).map(|(ifindex, _)| ifindex.parse::<u32>());
            devices.extend(ifindex.and_then(Result::ok));
        }
        Ok(devices)
    }
}

/// The entries of a folder, sorted; none where it isn't there.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, PinError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let mut entries = entries.map_err(|source| PinError::Io { action: "reading", path: folder.to_owned(), source })?;
    entries.sort();
    Ok(entries)
}

/// Removes a pin, if there is one. Returns whether there was.
///
/// # Errors
/// When the filesystem refuses.
pub(super) fn remove(path: &Path) -> Result<bool, PinError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PinError::Io { action: "removing", path: path.to_owned(), source }),
    }
}
