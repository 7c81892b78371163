//! Keeping the maps true to the store.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::kernel::{MapError, MapSet};
use crate::model::{ModelOptions, NodeView, desired};
use crate::plan::{Capacities, Plan, Realized, plan};
use crate::store::Store;

/// How often a plan is made anew because the last one has freed what it needs.
const ROUNDS: usize = 4;

/// The maps, and a copy of what is in them.
pub(super) struct Services {
    maps: MapSet,
    /// `None` after an error: to be read again.
    realized: Option<Realized>,
    capacities: Capacities,
    node_name: String,
    options: ModelOptions,
    /// What has been reported and is still so.
    reported: BTreeSet<String>,
    is_node_missing: bool,
    /// A backend has been freed that sockets may be connected to; so also while it is not known what happened before.
    has_freed: bool,
}

impl Services {
    pub(super) fn new(
        maps: MapSet,
        node_name: String,
        options: ModelOptions,
        capacities: Capacities,
    ) -> Result<Self, MapError> {
        let realized = maps.read()?;
        let count = realized.services().count();
        if count > 0 {
            tracing::info!("{count} Service ports are in the maps from before");
        }
        let reported = BTreeSet::new();
        let realized = Some(realized);
        Ok(Self { maps, realized, capacities, node_name, options, reported, is_node_missing: false, has_freed: true })
    }

    pub(super) fn maps(&self) -> &MapSet {
        &self.maps
    }

    /// Whether backends have been freed since this was last asked.
    pub(super) fn has_freed(&mut self) -> bool {
        std::mem::take(&mut self.has_freed)
    }

    /// How many Service ports are in the maps.
    pub(super) fn count(&self) -> usize {
        self.realized.as_ref().map_or(0, |realized| realized.services().count())
    }

    /// Brings the maps to what the store says. `addresses` are those of the node's uplinks, `own` those of all its
    /// devices. False if there was more to do than fits into one go.
    pub(super) fn reconcile(
        &mut self,
        store: &Store,
        addresses: BTreeSet<IpAddr>,
        own: BTreeSet<IpAddr>,
    ) -> Result<bool, MapError> {
        let node = NodeView { name: self.node_name.clone(), addresses, own };
        let Some((desired, problems)) = desired(store, &node, &self.options) else {
            let missing: Vec<String> = store.missing().map(|kind| kind.to_string()).collect();
            tracing::debug!("waiting for the first full list of: {}", missing.join(", "));
            return Ok(true);
        };
        self.report_missing_node(store);
        let mut troubles: BTreeSet<String> = problems.iter().map(ToString::to_string).collect();
        let mut is_done = false;
        for _ in 0..ROUNDS {
            let realized = match self.realized.take() {
                Some(realized) => realized,
                None => self.maps.read()?,
            };
            let plan = plan(&desired, &realized, &self.capacities);
            self.realized = Some(self.apply(&plan, realized)?);
            is_done = !plan.may_make_room();
            if is_done {
                troubles.extend(plan.full.iter().map(ToString::to_string));
                break;
            }
        }
        self.report(troubles);
        Ok(is_done)
    }

    /// Removes flows and affinities that are over at `now` (seconds since boot). Returns how many entries went.
    pub(super) fn expire(&self, now: u32) -> Result<usize, MapError> {
        let mut removed = self.maps.expire(now)?;
        // Where the copy is not known it will be soon.
        if let Some(realized) = &self.realized {
            removed += self.maps.expire_affinities(now, |service| {
                let v4 = realized.v4().frontends_of(service).map(|(_, frontend)| frontend.affinity);
                let v6 = realized.v6().frontends_of(service).map(|(_, frontend)| frontend.affinity);
                v4.chain(v6).max().unwrap_or_default()
            })?;
        }
        Ok(removed)
    }

    fn apply(&mut self, plan: &Plan, mut realized: Realized) -> Result<Realized, MapError> {
        for op in &plan.ops {
            self.maps.apply(op)?;
            self.has_freed |= op.frees_backend();
            realized.apply(op);
        }
        for change in &plan.changes {
            tracing::info!("{}: {change}", change.kind);
        }
        if !plan.ops.is_empty() {
            tracing::debug!("{} map entries written", plan.ops.len());
        }
        Ok(realized)
    }

    /// Says what is wrong, once, until it is something else.
    fn report(&mut self, troubles: BTreeSet<String>) {
        for trouble in troubles.difference(&self.reported) {
            tracing::warn!("{trouble}");
        }
        for trouble in self.reported.difference(&troubles) {
            tracing::info!("no longer: {trouble}");
        }
        self.reported = troubles;
    }

    fn report_missing_node(&mut self, store: &Store) {
        let is_missing = store.node(&self.node_name).is_none();
        if is_missing && !self.is_node_missing {
            tracing::warn!(
                "there is no Node {}: is --node-name right? NodePorts are answered on the addresses of uplinks only",
                self.node_name
            );
        }
        self.is_node_missing = is_missing;
    }
}
