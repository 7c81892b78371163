//! When the last known state is kept in its file, and when it is taken from there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::event::Event;
use crate::last_state::{LastState, LastStateError};
use crate::object::Kind;
use crate::output::chain;
use crate::store::Store;

/// The file is written so often at most.
pub(super) const KEEP: Duration = Duration::from_secs(30);
/// The API server has so long to tell what there is, before what is remembered has to do.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The file, and what is known of it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// `None` where nothing is to be kept.
    path: Option<PathBuf>,
    /// What was in it when the agent started, as long as it may be needed.
    remembered: Option<LastState>,
    /// The kinds that the source itself has listed.
    listed: BTreeSet<Kind>,
    /// The file is not what the source has said.
    is_behind: bool,
    /// The file is being written, on a thread where that may take its time.
    writing: Option<JoinHandle<Result<(), LastStateError>>>,
}

impl Memory {
    /// Reads the file, where the kernel remembers nothing.
    pub(super) fn new(path: Option<PathBuf>, is_kernel_empty: bool) -> Self {
        let remembered = path.as_ref().filter(|_| is_kernel_empty).and_then(|path| {
            LastState::read(path).unwrap_or_else(|error| {
                tracing::warn!("{}", chain(&error));
                None
            })
        });
        Self { path, remembered, ..Self::default() }
    }

    /// The source has said something.
    pub(super) fn heard(&mut self, event: &Event) {
        match event {
            Event::Listed { kind, .. } => {
                self.listed.insert(*kind);
            }
            Event::Apply(_) | Event::Delete(_) => {}
            Event::Problem(_) | Event::Mended(_) => return,
        }
        self.is_behind = true;
    }

    /// Whether there is something to fall back upon.
    pub(super) fn is_needed(&self) -> bool {
        self.remembered.is_some()
    }

    /// Brings what is remembered into the store, as far as the source has not told better. False if that changes nothing.
    pub(super) fn recall(&mut self, store: &mut Store) -> bool {
        let Some(remembered) = self.remembered.take() else { return false };
        if store.is_synced() {
            return false;
        }
        let (written, services) = (remembered.written(), remembered.services());
        for event in remembered.missing_in(store) {
            store.apply(event);
        }
        tracing::warn!(
            "the API server has not told yet what there is: going on with what was known at {written}, Services: {services}"
        );
        true
    }

    /// Begins to write the file, if the source has told all and then something new.
    pub(super) async fn keep(&mut self, store: &Store) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        self.settle().await;
        let has_all = [Kind::Service, Kind::EndpointSlice].iter().all(|kind| self.listed.contains(kind));
        let Some(path) = self.path.clone().filter(|_| self.is_behind && has_all) else { return };
        let state = LastState::of(store, Timestamp::now());
        self.is_behind = false;
        self.writing = Some(spawn_blocking(move || state.write(&path)));
    }

    /// Writes the file for the last time.
    pub(super) async fn finish(&mut self, store: &Store) {
        self.settle().await;
        self.keep(store).await;
        self.settle().await;
    }

    /// Waits until the file is written.
    async fn settle(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        match writing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.is_behind = true;
                tracing::warn!("{}; trying again", chain(&error));
            }
            // It cannot panic, and nobody cancels it.
            Err(error) => tracing::warn!("writing the last known state: {error}"),
        }
    }
}
