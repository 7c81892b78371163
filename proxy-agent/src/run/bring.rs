//! Bringing the state into the kernel: devices, hooks, maps; larger maps where some are full.

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::growth::GrowthError;
use super::services::{Failed, Round};
use super::{FAMILIES, OTHERS, OVERLAP, Owner};
use crate::devices::Decision;
use crate::events::Notice;
use crate::kernel::{Sizes, trim_heap};
use crate::model::{Family, NodeView, overlap_message};
use crate::object::Kind;
use crate::output::chain;
use crate::serve::Checks;
use crate::serve::metrics::gauge;
use crate::store::Scope;

impl Owner {
    /// Makes devices and maps what they should be, and maps larger that are full. False if something has to be tried
    /// again.
    pub(super) fn bring_into_kernel(&mut self) -> bool {
        let mut scope = std::mem::take(&mut self.pending);
        // Both look at everything there is.
        let takes_memory = self.inspects || !self.is_ready;
        // Looking at the network takes note of its changes.
        if self.inspects || !self.is_ready || self.network.has_changed().unwrap_or_default() {
            scope = Scope::Everything;
        }
        let is_done = loop {
            let is_done = self.bring_once(&scope);
            // Flows can wait until what is to be served is served.
            let crowded = || self.services.crowded().filter(|_| is_done);
            let sizes = self.services.wanted().or_else(|| self.growth.put_off()).or_else(crowded);
            let Some(sizes) = sizes else { break is_done };
            if let Err(error) = self.grow(&sizes) {
                tracing::error!("{}; trying again", chain(&error));
                break false;
            }
            scope = Scope::Everything;
        };
        if !is_done {
            self.pending = Scope::Everything;
        } else if takes_memory {
            trim_heap();
        }
        is_done
    }

    /// Goes on with larger maps and with programs that use them.
    fn grow(&mut self, sizes: &Sizes) -> Result<(), GrowthError> {
        let (mut programs, maps) = self.growth.load(sizes)?;
        self.sockets.replace(&mut programs)?;
        self.devices.replace(programs);
        self.services.replace(maps);
        Ok(())
    }

    fn bring_once(&mut self, scope: &Scope) -> bool {
        let Decision { attach, addresses, own } = self.decide();
        let view = self.view(addresses, own);
        if let Scope::Services(_) = scope {
            // Devices and hooks are as they were where nothing but Services has changed.
            let (is_done, _) = self.bring_services(&view, scope);
            let has_freed = self.services.has_freed();
            self.sockets.abort_orphans(has_freed, self.devices.programs(), self.services.maps());
            return is_done;
        }
        let mut filled = None;
        if self.devices.programs().need_filling() {
            // Programs with maps that are still empty must not take the place of others.
            let (is_done, _) = self.bring_services(&view, scope);
            if !is_done || !self.store.is_synced() || self.services.wanted().is_some() {
                return is_done;
            }
            if !self.devices.are_filled() {
                return false;
            }
            filled = Some(is_done);
        }
        let inspects = std::mem::take(&mut self.inspects);
        self.growth.begin_replacing();
        let devices = self.devices.reconcile(attach, inspects, self.services.maps(), self.state.metrics());
        self.growth.end_of_replacing(devices);
        let sockets = self.sockets.reconcile(self.devices.programs(), self.state.metrics());
        // Now that no program is left of those before: what is written next, they would not know of.
        let former = !(devices && sockets) || self.growth.retire_former();
        let mut services = filled.unwrap_or_else(|| self.bring_services(&view, scope).0);
        if inspects && services {
            services = self.inspect_services(&view);
        }
        let has_freed = self.services.has_freed();
        self.sockets.abort_orphans(has_freed, self.devices.programs(), self.services.maps());
        let is_done = devices && services && sockets && former;
        if is_done && !self.is_ready && self.store.is_synced() {
            self.is_ready = true;
            tracing::info!("ready: Service ports: {}, devices: {}", self.services.count(), self.devices.count());
        }
        is_done
    }

    /// Whether it is too early for Services, as what else is watched is about to come.
    fn waits_for_others(&mut self) -> bool {
        if !self.store.is_synced() {
            return false;
        }
        let since = *self.synced_since.get_or_insert_with(Instant::now);
        since.elapsed() < OTHERS && !Kind::ALL.into_iter().all(|kind| self.store.has_listed(kind))
    }

    /// Brings the maps to what the store says. False if something has to be tried again; with how many entries were written.
    fn bring_services(&mut self, view: &NodeView, scope: &Scope) -> (bool, usize) {
        if self.waits_for_others() {
            return (false, 0);
        }
        let began = Instant::now();
        match self.services.reconcile(&self.store, view.clone(), scope) {
            Ok(Some(round)) => {
                self.state.metrics().synced(began.elapsed(), round.is_full);
                let (is_done, writes) = (round.is_done, round.writes);
                self.publish(round);
                (is_done, writes)
            }
            Ok(None) => (true, 0),
            Err(Failed { error, behind }) => {
                tracing::error!("{}; trying again on the state read anew", chain(&error));
                self.state.metrics().sync_failures.inc();
                self.state.queued(&behind);
                let done: Vec<Family> = FAMILIES.into_iter().filter(|family| !behind.contains(family)).collect();
                self.state.updated(&done);
                (false, 0)
            }
        }
    }

    /// Looks at the maps again, and puts back what somebody else has changed. False if that has to be tried again.
    fn inspect_services(&mut self, view: &NodeView) -> bool {
        match self.services.is_true() {
            Ok(true) => true,
            Ok(false) => {
                let (is_done, writes) = self.bring_services(view, &Scope::Everything);
                if writes > 0 {
                    self.state.metrics().repaired("entry", writes);
                    tracing::warn!("{writes} entries of maps had been changed by somebody else, and are back");
                }
                is_done
            }
            Err(error) => {
                tracing::error!("{}; trying again", chain(&error));
                false
            }
        }
    }

    /// Tells the servers what is in the kernel now.
    fn publish(&mut self, round: Round) {
        let metrics = self.state.metrics();
        metrics.nothing_pending();
        metrics.map_writes.inc_by(round.writes as u64);
        metrics.service_ports.set(gauge(self.services.count()));
        metrics.service_ports_without_room.set(gauge(round.without_room));
        metrics.problems.set(gauge(round.problems));
        metrics.set_no_local(&round.no_local);
        for (map, entries) in self.services.entries() {
            metrics.set_entries(map, entries);
        }
        if round.is_done {
            for (family, took) in self.triggers.programmed(&FAMILIES, Timestamp::now()) {
                metrics.programmed(family, took);
            }
            if let Some(since) = self.waiting_since.take() {
                metrics.sync_lag.observe(since.elapsed().as_secs_f64());
            }
            self.state.updated(&FAMILIES);
        }
        if let Some(overlaps) = round.overlaps {
            for (range, with) in &overlaps {
                if self.overlaps.get(range) != Some(with) {
                    let note = overlap_message(range, with);
                    self.recorder.record(Notice::warning(self.recorder.about_node(), OVERLAP, "SyncServices", note));
                }
            }
            self.overlaps = overlaps;
        }
        let Some(services) = round.health_checks else { return };
        let checks = Checks { addresses: round.check_addresses, services };
        self.checks.send_if_modified(|known| {
            let is_new = *known != checks;
            *known = checks;
            is_new
        });
    }
}
