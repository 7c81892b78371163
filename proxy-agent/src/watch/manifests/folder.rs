//! The folder on disk: reading it, and noticing changes.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::reconcile::{Scan, Texts};
use crate::object::Problem;

/// Why a folder of manifests cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// It is not there or not readable.
    #[error("cannot read the folder of manifests {}: {source}", folder.display())]
    Read {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel refuses to watch it, usually for want of inotify instances.
    #[error("cannot watch the folder of manifests {}: {source}; see fs.inotify.max_user_instances", folder.display())]
    Watch {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: notify::Error,
    },
}

/// Tells when something in the folder changed.
#[derive(Debug)]
pub(super) struct Changes {
    watcher: RecommendedWatcher,
    /// Device and inode of what is watched: another folder may take its place under the same name.
    watched: Option<(u64, u64)>,
    changed: mpsc::Receiver<()>,
}

impl Changes {
    pub(super) fn watch(folder: &Path) -> Result<Self, ManifestsError> {
        let unreadable = |source| ManifestsError::Read { folder: folder.to_owned(), source };
        fs::read_dir(folder).map_err(unreadable)?;
        // One message is enough to say that something changed, so a full channel is fine.
        let (sender, changed) = mpsc::channel(1);
        let tell = move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| matters(event.kind)) {
                let _already_told = sender.try_send(());
            }
        };
        let unwatchable = |source| ManifestsError::Watch { folder: folder.to_owned(), source };
        let mut watcher = notify::recommended_watcher(tell).map_err(unwatchable)?;
        watcher.watch(folder, RecursiveMode::NonRecursive).map_err(unwatchable)?;
        Ok(Self { watcher, watched: identity(folder), changed })
    }

    /// Watches the folder that has the name now. To be called before each reading.
    pub(super) fn follow(&mut self, folder: &Path) {
        let now = identity(folder);
        if now.is_none() || now == self.watched {
            return;
        }
        // The old watch went with the old folder: an error about it means nothing.
        let _gone = self.watcher.unwatch(folder);
        match self.watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => self.watched = now,
            Err(error) => tracing::debug!("{}: cannot be watched: {error}; trying again", folder.display()),
        }
    }

    /// Returns when something changed since the last call.
    pub(super) async fn next(&mut self) {
        if self.changed.recv().await.is_none() {
            // The watcher is gone, which leaves the regular readings.
            std::future::pending::<()>().await;
        }
    }
}

/// Whether an event can mean that files read differently now. Opening and reading do not: we do so ourselves.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}

fn identity(folder: &Path) -> Option<(u64, u64)> {
    fs::metadata(folder).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Reads all manifests of the folder.
pub(super) fn scan(folder: &Path) -> Scan {
    let unreadable = |error: std::io::Error| Problem {
        place: Some(folder.display().to_string()),
        object: None,
        message: format!("cannot be read: {error}; what was in it stays"),
    };
    let mut texts = Texts::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if !is_manifest(&file) {
            continue;
        }
        match fs::read_to_string(&file) {
            Ok(text) => drop(texts.insert(file, Ok(text))),
            // Gone since the folder was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => drop(texts.insert(file, Err(format!("cannot be read: {error}; what was in it stays")))),
        }
    }
    Ok(texts)
}

fn is_manifest(file: &Path) -> bool {
    let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let known = file.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|e| extension == *e));
    !hidden && known && !file.is_dir()
}
