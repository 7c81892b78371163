//! The embedded source: a folder of manifests, for use without a cluster.
//!
//! Every file ending in `.yaml`, `.yml` or `.json` is read, with several documents or a List in it as may be.
//! After any change in the folder the whole folder is read again and compared, because that is the only way
//! that is right for every editor and for mounted ConfigMaps (which change by one symbolic link). Absent on
//! purpose: folders in the folder, and files whose name begins with a dot.

mod folder;
mod parse;
mod reconcile;
mod tree;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::event::{Event, EventSender};
use crate::object::{Object, Problem};
use folder::{Changes, scan};
use reconcile::Reconciler;

pub use folder::ManifestsError;

/// Reads once the folder was quiet for so long: writers write in pieces.
const QUIET: Duration = Duration::from_millis(50);
/// Reads at the latest so long after the first change.
const PATIENCE: Duration = Duration::from_millis(500);
/// Reads so often in any case: not every file system tells of changes.
const RESCAN: Duration = Duration::from_secs(10);

/// A folder of manifests that is read and watched.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
    changes: Changes,
    reconciler: Reconciler,
}

impl Manifests {
    /// Opens a folder. It must exist; what is in it matters only later.
    pub fn open(folder: &Path) -> Result<Self, ManifestsError> {
        let changes = Changes::watch(folder)?;
        Ok(Self { folder: folder.to_owned(), changes, reconciler: Reconciler::default() })
    }

    /// Sends what is in the folder, then `Listed` for each kind, then every change, until the receiver is gone.
    /// All that one reading of the folder brings comes as one message.
    pub async fn run(mut self, events: EventSender) {
        loop {
            let news = self.read();
            if !news.is_empty() && events.send(news).await.is_err() {
                return;
            }
            tokio::select! {
                () = self.changed() => {}
                () = events.closed() => return,
            }
        }
    }

    /// Reads the folder and returns what is new.
    fn read(&mut self) -> Vec<Event> {
        self.changes.follow(&self.folder);
        self.reconciler.scan(scan(&self.folder))
    }

    /// Returns when the folder should be read again.
    async fn changed(&mut self) {
        let again = Instant::now() + RESCAN;
        if timeout_at(again, self.changes.next()).await.is_err() {
            return;
        }
        let latest = Instant::now() + PATIENCE;
        loop {
            let quiet = (Instant::now() + QUIET).min(latest);
            if timeout_at(quiet, self.changes.next()).await.is_err() {
                return;
            }
        }
    }
}

/// The objects of one text, in their order, and what is wrong with it, at its lines. For tools and tests.
pub fn read_text(text: &str) -> (Vec<Object>, Vec<Problem>) {
    let parsed = parse::parse(text);
    let problem = |broken: parse::Broken| Problem {
        place: Some(format!("line {}", broken.line)),
        object: broken.object,
        message: broken.message,
    };
    let objects = parsed.objects.into_iter().map(|found| found.object).collect();
    (objects, parsed.broken.into_iter().map(problem).collect())
}
