//! Keeping the maps true to the store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proxy_common::flows::FlowUse;

use super::ports::PortLack;
use crate::kernel::{MapError, MapSet, Sizes};
use crate::model::{
    Desired, Family, HealthCheck, Held, ModelOptions, NoLocal, NodeView, ServicePort, desired, health_check_addresses,
    overlap_message,
};
use crate::object::{ObjectName, Protocol};
use crate::plan::{Capacities, Op, Plan, Realized, plan, plan_changes};
use crate::store::{ChangedServices, Scope, Store};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// How often a plan is made anew because the last one has freed what it needs.
const ROUNDS: usize = 4;

/// What a round has brought into the kernel.
pub(super) struct Round {
    /// Service ports without an endpoint that a Local policy needs.
    pub no_local: NoLocal,
    /// Ranges of ClusterIPs that overlap with others; `None` where that was not looked at.
    pub overlaps: Option<BTreeMap<IpNet, String>>,
    /// What load balancers are to be told; `None` where that is what they were told before.
    pub health_checks: Option<BTreeMap<ObjectName, HealthCheck>>,
    /// Whether the maps were read anew for it.
    pub is_full: bool,
    /// How many entries were written or removed.
    pub writes: usize,
    /// How many Service ports found no room.
    pub without_room: usize,
    /// How many things are wrong with objects.
    pub problems: usize,
    /// Where health check node ports are to be served; empty: everywhere.
    pub check_addresses: BTreeSet<IpAddr>,
    /// False if there was more to do than fits into one go.
    pub is_done: bool,
}

/// A round that came to an end too early.
#[derive(Debug)]
pub(super) struct Failed {
    /// Why.
    pub error: MapError,
    /// The families that are not up to date.
    pub behind: Vec<Family>,
}

/// The maps, and a copy of what is in them.
pub(super) struct Services {
    maps: MapSet,
    /// `None` after an error: to be read again.
    realized: Option<Realized>,
    capacities: Capacities,
    options: ModelOptions,
    /// What the maps may grow to.
    limits: Sizes,
    /// Sizes with which all would fit that did not.
    wanted: Option<Sizes>,
    /// Sizes with which the tables of flows would be less full.
    crowded: Option<Sizes>,
    port_lack: PortLack,
    /// What has been reported and is still so.
    reported: BTreeSet<String>,
    is_node_missing: bool,
    /// A backend has been freed that sockets may be connected to; so also while it is not known what happened before.
    has_freed: bool,
    /// The first round is on maps that were just read.
    is_first: bool,
    /// What the maps hold to the last entry, since the last round; `None` where they may not.
    settled: Option<Settled>,
}

/// What the last round came to.
struct Settled {
    held: Held,
    /// The node as it was seen then.
    node: NodeView,
    problems: usize,
}

impl Services {
    pub(super) fn new(maps: MapSet, options: ModelOptions, limits: Sizes) -> Result<Self, MapError> {
        let capacities = maps.sizes().into();
        let realized = maps.read()?;
        let count = realized.services().count();
        if count > 0 {
            tracing::info!("{count} Service ports are in the maps from before");
        }
        Ok(Self {
            maps,
            realized: Some(realized),
            capacities,
            options,
            limits,
            wanted: None,
            crowded: None,
            port_lack: PortLack::default(),
            reported: BTreeSet::new(),
            is_node_missing: false,
            has_freed: true,
            is_first: true,
            settled: None,
        })
    }

    /// Goes on with larger maps, which are read anew.
    pub(super) fn replace(&mut self, maps: MapSet) {
        self.capacities = maps.sizes().into();
        self.maps = maps;
        self.realized = None;
        self.settled = None;
        self.wanted = None;
        self.crowded = None;
    }

    /// The sizes that maps are to grow to, if some Service port found no room when they were last brought true.
    pub(super) fn wanted(&self) -> Option<Sizes> {
        self.wanted
    }

    /// The sizes that maps are to grow to so that flows find room, also while more and more begin.
    pub(super) fn crowded(&self) -> Option<Sizes> {
        self.crowded
    }

    /// Looks how full the tables of flows are. True if they are to grow.
    pub(super) fn look_at_flows(&mut self) -> Result<bool, MapError> {
        self.crowded = self.maps.sizes().with_more_flows(self.maps.staying_flows()?, &self.limits);
        Ok(self.crowded.is_some())
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

    /// Reads the maps again and compares. False if somebody else has changed them: then they are to be brought true.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(super) fn is_true(&mut self) -> Result<bool, MapError> {
        let Some(known) = self.realized.take() else { return Ok(true) };
        let found = self.maps.read()?;
        let is_true = found == known;
        self.realized = Some(found);
        Ok(is_true)
    }

    /// Ranges of ClusterIPs that others have addresses in, too, each with what is to be said of it. `None` if it is too
    /// early.
    pub(super) fn overlaps(&self, store: &Store, node: &NodeView) -> Option<Vec<String>> {
        let (desired, _) = desired(store, node, &self.options)?;
        Some(desired.overlaps.iter().map(|(range, with)| overlap_message(range, with)).collect())
    }

    /// Brings the maps to what the store says; `scope` is what may be different since the last round. `None` if it is too
    /// early.
    pub(super) fn reconcile(&mut self, store: &Store, node: NodeView, scope: &Scope) -> Result<Option<Round>, Failed> {
        if let (Scope::Services(services), Some(settled)) = (scope, self.settled.take())
            && settled.node == node
            && let Some(round) = self.reconcile_some(store, settled, services)?
        {
            return Ok(Some(round));
        }
        self.reconcile_all(store, node)
    }

    /// A round that looks at nothing but these Services. `None` if it takes more than that.
    fn reconcile_some(
        &mut self,
        store: &Store,
        mut settled: Settled,
        services: &ChangedServices,
    ) -> Result<Option<Round>, Failed> {
        let Settled { held, node, problems } = &mut settled;
        let Some(changes) = held.update(store, node, &self.options, services) else { return Ok(None) };
        let Some(realized) = self.realized.take() else { return Ok(None) };
        let plan = plan_changes(held.desired(), &realized, &self.capacities, &changes);
        if !plan.has_room() {
            self.realized = Some(realized);
            return Ok(None);
        }
        // Sockets are looked through for those of UDP alone.
        let had_freed = std::mem::take(&mut self.has_freed);
        self.realized = Some(self.apply(&plan, realized)?);
        let is_udp = changes.ports.iter().any(|port| port.protocol == Protocol::Udp);
        self.has_freed = had_freed || (self.has_freed && is_udp);
        let desired = held.desired();
        let round = Round {
            no_local: desired.no_local,
            overlaps: None,
            health_checks: changes.health_checks.then(|| desired.health_checks.clone()),
            is_full: false,
            writes: plan.ops.len(),
            without_room: 0,
            problems: *problems,
            check_addresses: health_check_addresses(store, node, &self.options),
            is_done: true,
        };
        self.settled = Some(settled);
        Ok(Some(round))
    }

    fn reconcile_all(&mut self, store: &Store, node: NodeView) -> Result<Option<Round>, Failed> {
        let Some((desired, problems)) = desired(store, &node, &self.options) else {
            let missing: Vec<String> = store.missing().map(|kind| kind.to_string()).collect();
            tracing::debug!("waiting for the first full list of: {}", missing.join(", "));
            return Ok(None);
        };
        let check_addresses = health_check_addresses(store, &node, &self.options);
        let number_of_problems = problems.len();
        let (mut is_full, mut writes, mut without_room) = (self.is_first, 0, 0);
        self.report_missing_node(store, &node.name);
        let mut troubles: BTreeSet<String> = problems.iter().map(ToString::to_string).collect();
        let mut is_done = false;
        for _ in 0..ROUNDS {
            let realized = match self.realized.take() {
                Some(realized) => realized,
                None => {
                    is_full = true;
                    self.maps.read().map_err(|error| Failed { error, behind: FAMILIES.to_vec() })?
                }
            };
            let plan = plan(&desired, &realized, &self.capacities);
            self.realized = Some(self.apply(&plan, realized)?);
            writes += plan.ops.len();
            without_room = plan.full.len();
            is_done = !plan.may_make_room();
            if is_done {
                self.wanted = (!plan.has_room()).then(|| self.larger(&desired)).flatten();
                if self.wanted.is_none() {
                    troubles.extend(plan.full.iter().map(ToString::to_string));
                    troubles.extend(plan.without_table.iter().map(ToString::to_string));
                }
                break;
            }
        }
        self.report(troubles);
        self.is_first = false;
        let problems = number_of_problems;
        let round = Round {
            no_local: desired.no_local,
            overlaps: Some(desired.overlaps.clone()),
            health_checks: Some(desired.health_checks.clone()),
            is_full,
            writes,
            without_room,
            problems,
            check_addresses,
            is_done,
        };
        if is_done && without_room == 0 {
            self.settled = Some(Settled { held: Held::new(desired, problems), node, problems });
        }
        Ok(Some(round))
    }

    /// The sizes that would do, as far as the limits allow. `None` where nothing may grow.
    fn larger(&self, desired: &Desired) -> Option<Sizes> {
        let mut all = self.realized.clone()?;
        for op in &plan(desired, &all, &self.limits.into()).ops {
            all.apply(op);
        }
        let sizes = self.maps.sizes();
        Some(sizes.with_room_for(&all.extent(), &self.limits)).filter(|larger| *larger != sizes)
    }

    /// Removes flows, pieces of packets and affinities that are over at `now` (seconds since boot). Returns what the tables of flows have in
    /// them, by family, and how many entries for affinity went.
    pub(super) fn expire(&self, now: u32) -> Result<([FlowUse; 2], usize), MapError> {
        let flows = self.maps.sweep_flows(now)?;
        self.maps.expire_early(now)?;
        let mut affinities = 0;
        // Where the copy is not known it will be soon.
        if let Some(realized) = &self.realized {
            affinities = self.maps.expire_affinities(now, |service| {
                let v4 = realized.v4().frontends_of(service).map(|(_, frontend)| frontend.affinity);
                let v6 = realized.v6().frontends_of(service).map(|(_, frontend)| frontend.affinity);
                v4.chain(v6).max().unwrap_or_default()
            })?;
        }
        Ok((flows, affinities))
    }

    /// The Service ports whose new flows found no source port, and how many packets that were since it was last asked.
    pub(super) fn lack_of_ports(&mut self) -> Result<Vec<(ServicePort, u64)>, MapError> {
        // Where the copy is not known it will be soon.
        let Some(realized) = &self.realized else { return Ok(Vec::new()) };
        let lacking = self.port_lack.look(&self.maps)?;
        // A Service that has gone meanwhile is nobody's concern.
        Ok(lacking.into_iter().filter_map(|(id, packets)| Some((realized.service(id)?.clone(), packets))).collect())
    }

    /// How many entries of which map are in use.
    pub(super) fn entries(&self) -> Vec<(&'static str, usize)> {
        let Some(realized) = &self.realized else { return Vec::new() };
        let (v4, v6) = (realized.v4(), realized.v6());
        vec![
            ("frontend_v4", v4.frontend_count()),
            ("frontend_v6", v6.frontend_count()),
            ("backend_v4", v4.backend_count()),
            ("backend_v6", v6.backend_count()),
            ("range_v4", v4.range_count()),
            ("range_v6", v6.range_count()),
            ("service", realized.services().count()),
        ]
    }

    /// The same of the maps of slots, which takes longer to tell.
    pub(super) fn slot_entries(&self) -> Vec<(&'static str, usize)> {
        let Some(realized) = &self.realized else { return Vec::new() };
        vec![("slot_v4", realized.v4().slots_in_use()), ("slot_v6", realized.v6().slots_in_use())]
    }

    fn apply(&mut self, plan: &Plan, mut realized: Realized) -> Result<Realized, Failed> {
        self.maps
            .apply_all(&plan.ops)
            .map_err(|(index, error)| Failed { error, behind: families(plan.ops.get(index..).unwrap_or_default()) })?;
        for op in &plan.ops {
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

    fn report_missing_node(&mut self, store: &Store, name: &str) {
        let is_missing = store.node(name).is_none();
        if is_missing && !self.is_node_missing {
            tracing::warn!(
                "there is no Node {name}: is --node-name right? NodePorts are answered on the addresses of uplinks only"
            );
        }
        self.is_node_missing = is_missing;
    }
}

/// The families that operations are for; both where that cannot be told.
fn families(ops: &[Op]) -> Vec<Family> {
    let is_for = |family: Family, op: &Op| match op {
        Op::V4(_) => family == Family::V4,
        Op::V6(_) => family == Family::V6,
        Op::SetService { name, .. } => name.family == 0 || name.family == family.number(),
        Op::ResetCounters { .. } => true,
    };
    FAMILIES.into_iter().filter(|family| ops.iter().any(|op| is_for(*family, op))).collect()
}
