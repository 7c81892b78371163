//! `proxy-agent run`: the one task that owns the state.
//!
//! Sources of objects, the network namespace and signals send it messages; it alone changes maps and devices.
//! News that come together are worked off together. What fails is tried again, later each time, on the state
//! read anew; nothing is taken for granted that was not read or written.
//!
//! When it ends, by a signal or a crash, the kernel goes on with what it has.

mod bring;
mod config_file;
mod devices;
mod growth;
mod memory;
mod news;
mod oom;
mod ports;
pub mod rules;
mod services;
mod sockets;
mod sysctl;
mod triggers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep, sleep_until};

use crate::cli::RunArgs;
use crate::config::Settings;
use crate::devices::{Decision, DeviceFilter, NetlinkError, Network, PodDevices, decide, follow};
use crate::event::{Event, EventReceiver};
use crate::events::{self, Notice, Recorder};
use crate::kernel::{self, AttachMode, Attacher, MapError, PacketLog, PinError};
use crate::model::{Family, NodeView, is_eligible};
use crate::object::Kind;
use crate::output::chain;
use crate::serve::{self, Addresses, Checks, PinnedMaps, ServeError, State};
use crate::store::{Scope, Store};
use crate::watch::api::ApiOptions;
use crate::watch::{Source, SourceError};
use devices::Devices;
use growth::{Growth, GrowthError};
use memory::Memory;
use services::Services;
use sockets::Sockets;
use triggers::Triggers;

/// News are worked off so long after the first one: what comes together is done together.
const COALESCE: Duration = Duration::from_millis(3);
/// Once Services and their slices are known, they wait so long for what else is watched: a start in which the Node or the
/// ranges of ClusterIPs come last would take back for a moment what depends on them.
const OTHERS: Duration = Duration::from_secs(2);
/// What failed is tried again after this, and after twice as long each time it fails again.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// An Event about why the agent ends has so long to be sent.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The reason of Events about a range of ClusterIPs that others have addresses in.
const OVERLAP: &str = "ServiceRangeOverlap";

/// How full the tables of flows are is looked at so often.
const LOOK: Duration = Duration::from_secs(1);

/// Flows that are over are removed so often, and Services whose flows found no source port are told of.
const EXPIRY: Duration = Duration::from_secs(15);

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The pin path cannot be used, or another agent has it.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// There is no source of objects that can be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The kernel programs cannot be loaded.
    #[error(transparent)]
    Programs(#[from] GrowthError),
    /// The maps cannot be read.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The network devices cannot be found.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Signals cannot be received.
    #[error("setting up the signals")]
    Signal(#[source] std::io::Error),
    /// There is no thread for the servers.
    #[error("starting the thread of the servers")]
    Serve(#[source] std::io::Error),
    /// A server cannot be started, and the agent is to end for it.
    #[error(transparent)]
    Bind(#[from] ServeError),
    /// Others have addresses in a range of ClusterIPs, and the operator does not want that.
    #[error("{0} (to start all the same: without --strict)")]
    Overlap(String),
    /// The configuration file says something else now.
    #[error("{} has changed: ending, to be started again with it; the kernel goes on forwarding", path.display())]
    ConfigChanged {
        /// The file.
        path: PathBuf,
    },
}

/// Runs the agent until it gets SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start. Once started, errors are logged and what failed is tried again.
pub async fn run(args: RunArgs, settings: Settings, log: PacketLog) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    if let Some(warning) = settings.warning() {
        tracing::warn!("{warning}");
    }
    oom::adjust(settings.oom_score_adj);
    let node_name = node_name(args.node_name, &settings);
    let api = ApiOptions {
        kubeconfig: args.kubeconfig.or_else(|| settings.kubeconfig.clone()),
        // Manifests name the flag in any case, perhaps with nothing in it.
        servers: args.api_servers.into_iter().filter(|server| !server.trim().is_empty()).collect(),
        node_name: node_name.clone(),
        proxy_name: args.service_proxy_name.clone(),
    };
    let source = Source::open(args.manifests.as_deref(), api).await?;

    let pins = args.pins.path();
    let _lock = pins.prepare()?;
    let mut growth = Growth {
        pins: pins.clone(),
        limits: args.sizes,
        first: args.initial_entries,
        log,
        socket_lb: args.socket_lb,
        xdp: args.xdp,
        has_former: true,
        carried: 0,
        puts_off: false,
        held: None,
        moves: Vec::new(),
    };
    let (mut programs, maps) = growth.begin()?;
    let mut flow_limits = settings.flow_limits;
    args.flow_timeouts.iter().for_each(|timeout| timeout.apply(&mut flow_limits));
    maps.set_flow_limits(flow_limits)?;
    let mode = args.attach.unwrap_or_else(AttachMode::detect);
    let network = follow().await?;
    sysctl::check(&network.borrow());

    let sockets = Sockets::new(args.socket_lb, args.cgroup, &mut programs, pins.clone());
    let (mut options, pod_devices) = rules::of(&settings, args.service_proxy_name, args.rules);
    options.localhost_node_ports = settings.localhost_node_ports() && sockets.are_served();
    let services = Services::new(maps, options, args.sizes)?;
    let memory = Memory::new(args.state_file, services.count() == 0);
    tracing::info!(
        "node {}, pins at {}, attaching by {}",
        node_name,
        pins.path().display(),
        match mode {
            AttachMode::Tcx => "TCX links",
            AttachMode::Clsact => "clsact filters",
        }
    );
    let pinned = PinnedMaps::new(pins.maps());
    let state = Arc::new(State::new(settings.sync_period * 2, settings.configz(), |registry| {
        source.register(registry);
        registry.register_collector(Box::new(pinned));
    }));
    let (recorder, notices) = events::channel(&node_name);
    let poster = source.poster();
    let is_cluster = poster.is_some();
    tokio::spawn(events::Sender::new(poster, node_name.clone(), state.clone()).run(notices));
    let (checks, wanted_checks) = watch::channel(Checks::default());
    let addresses = Addresses {
        healthz: settings.healthz_bind_address,
        metrics: settings.metrics_bind_address,
        hard_fail: settings.bind_address_hard_fail,
    };
    let mut serving =
        serve::start(state.clone(), addresses, wanted_checks, recorder.clone()).map_err(RunError::Serve)?;
    let (sender, events) = mpsc::channel(64);
    tokio::spawn(source.run(sender));
    recorder.record(Notice::normal(recorder.about_node(), "Starting", "StartKubeProxy", String::new()));
    let mut owner = Owner {
        store: Store::default(),
        network,
        filter: args.devices.unwrap_or_default(),
        pod_devices,
        node_name,
        services,
        memory,
        devices: Devices::new(Attacher::new(programs, pins, mode)),
        sockets,
        growth,
        inspects: false,
        is_ready: false,
        state,
        checks,
        recorder: recorder.clone(),
        overlaps: BTreeMap::new(),
        is_strict: args.strict,
        triggers: Triggers::new(Timestamp::now()),
        waiting_since: None,
        pending: Scope::Everything,
        synced_since: None,
        node_was_there: false,
        is_cluster,
        sync_period: settings.sync_period,
        min_sync_period: settings.min_sync_period,
    };
    tokio::select! {
        error = owner.work(events) => {
            if let RunError::Overlap(note) = &error {
                recorder.record(Notice::warning(recorder.about_node(), OVERLAP, "StartKubeProxy", note.clone()));
                sleep(LAST_WORD).await;
            }
            return Err(error);
        }
        failure = serving.failed() => {
            let reason = match failure.what {
                "healthz" => "FailedToStartProxierHealthcheck",
                _ => "FailedToStartMetricServer",
            };
            recorder.record(Notice::warning(recorder.about_node(), reason, "StartKubeProxy", failure.to_string()));
            // The Event is to be seen, but the end does not depend on it.
            sleep(LAST_WORD).await;
            return Err(failure.into());
        }
        path = config_file::changed(args.config, args.kube_proxy, &settings) => {
            return Err(RunError::ConfigChanged { path });
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    owner.memory.finish(&owner.store).await;
    tracing::info!("ending; the kernel goes on forwarding (`proxy-agent cleanup` would end that)");
    Ok(())
}

/// The flag of kube-proxy, ours, the file, the host's name: the first that there is.
fn node_name(given: Option<String>, settings: &Settings) -> String {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase();
    settings.hostname_override.clone().or(given).unwrap_or_else(host)
}

/// The state, and what it takes to bring it into the kernel.
struct Owner {
    store: Store,
    network: watch::Receiver<Network>,
    filter: DeviceFilter,
    pod_devices: PodDevices,
    node_name: String,
    services: Services,
    /// What the source has told, for the time after a reboot.
    memory: Memory,
    devices: Devices,
    sockets: Sockets,
    growth: Growth,
    /// What is known to be in the kernel is to be looked at again.
    inspects: bool,
    is_ready: bool,
    /// What the servers read.
    state: Arc<State>,
    checks: watch::Sender<Checks>,
    recorder: Recorder,
    /// Ranges of ClusterIPs that overlap with others, of which an Event was made.
    overlaps: BTreeMap<IpNet, String>,
    /// To end if there are such ranges when the agent begins to work.
    is_strict: bool,
    triggers: Triggers,
    /// Since when the first change waits that is not in the kernel.
    waiting_since: Option<Instant>,
    /// What may have changed since the last round that went well.
    pending: Scope,
    /// Since when Services and their slices are known.
    synced_since: Option<Instant>,
    node_was_there: bool,
    /// Whether there is an API server.
    is_cluster: bool,
    /// What failed is tried again after this time at the latest. Attached programs and maps are looked at so often, as
    /// somebody may have changed them.
    sync_period: Duration,
    /// Time from one round to the next, at least.
    min_sync_period: Duration,
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Owner {
    /// Works off news for ever, unless it turns out that the agent must not start.
    async fn work(&mut self, mut events: EventReceiver) -> RunError {
        let mut inspection = interval_at(Instant::now() + self.sync_period, self.sync_period);
        inspection.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut expiry = interval(EXPIRY);
        expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut keep = interval(memory::KEEP);
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let start = Instant::now();
        let mut due = Some(Instant::now());
        let mut last_sync: Option<Instant> = None;
        let mut delay = FIRST_RETRY;
        let mut is_following = true;
        loop {
            let not_before = |time: Instant, pause| last_sync.map_or(time, |last| time.max(last + pause));
            let soon = not_before(Instant::now() + COALESCE, self.min_sync_period);
            tokio::select! {
                Some(news) = events.recv() => {
                    let mut scope = self.take(news);
                    while let Ok(news) = events.try_recv() {
                        scope.add(self.take(news));
                    }
                    // Single Services cost little, and clients wait for them: at once, unless that was just done.
                    let at = match scope {
                        Scope::Nothing => due,
                        Scope::Services(_) => Some(not_before(Instant::now(), COALESCE.max(self.min_sync_period))),
                        Scope::Everything => Some(soon),
                    };
                    due = due.into_iter().chain(at).min();
                    self.pending.add(scope);
                }
                changed = self.network.changed(), if is_following => {
                    is_following = changed.is_ok();
                    // A new device may get its first address any moment: at once.
                    due = Some(Instant::now());
                    self.pending = Scope::Everything;
                }
                _ = expiry.tick() => {
                    self.expire();
                    self.tell_lack_of_ports();
                }
                _ = look.tick() => {
                    if self.look_at_flows() {
                        due = Some(due.map_or(soon, |due| due.min(soon)));
                    }
                }
                _ = keep.tick() => self.memory.keep(&self.store).await,
                () = sleep_until(start + memory::PATIENCE), if self.memory.is_needed() => {
                    if self.memory.recall(&mut self.store) {
                        due = Some(Instant::now());
                        self.pending = Scope::Everything;
                    }
                }
                _ = inspection.tick() => {
                    self.inspects = true;
                    due = Some(due.map_or(soon, |due| due.min(soon)));
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    if let Err(error) = self.check_ranges() {
                        return error;
                    }
                    last_sync = Some(Instant::now());
                    if self.bring_into_kernel() {
                        delay = FIRST_RETRY;
                    } else {
                        due = Some(Instant::now() + delay);
                        delay = (delay * 2).min(self.sync_period);
                    }
                }
            }
        }
    }

    /// Removes the flows and affinities that are over.
    fn expire(&self) {
        let expired = kernel::now().map(|now| u32::try_from(now).unwrap_or(u32::MAX));
        match expired.map(|now| self.services.expire(now)) {
            Ok(Ok((by_family, affinities))) => {
                if affinities > 0 {
                    tracing::debug!("{affinities} entries of affinities that are over removed");
                }
                let maps = ["flow_v4", "flow_v6"];
                for ((family, map), used) in FAMILIES.into_iter().zip(maps).zip(by_family) {
                    self.state.metrics().set_flows(family, map, &used);
                    if used.removed > 0 {
                        tracing::debug!("{map}: {} flows that are over removed", used.removed);
                    }
                }
                for (map, entries) in self.services.slot_entries() {
                    self.state.metrics().set_entries(map, entries);
                }
            }
            Ok(Err(error)) => tracing::warn!("removing flows that are over: {}", chain(&error)),
            Err(error) => tracing::warn!("removing flows that are over: the clock: {error}"),
        }
    }

    /// Says which Services' new flows have found no source port since it was last said.
    fn tell_lack_of_ports(&mut self) {
        match self.services.lack_of_ports() {
            Ok(lacking) => {
                lacking.iter().for_each(|(port, packets)| tracing::warn!("{}", ports::message(port, *packets)))
            }
            Err(error) => tracing::warn!("looking for Services without source ports: {}", chain(&error)),
        }
    }

    /// Whether the tables of flows are to grow.
    fn look_at_flows(&mut self) -> bool {
        self.services.look_at_flows().unwrap_or_else(|error| {
            tracing::warn!("looking how full the tables of flows are: {}", chain(&error));
            false
        })
    }

    /// Takes news in. Returns what is to be looked at because of them.
    fn take(&mut self, news: Vec<Event>) -> Scope {
        let mut changed = Scope::Nothing;
        for event in news {
            match &event {
                Event::Problem(problem) => tracing::warn!("{problem}"),
                Event::Mended(problem) => tracing::info!("no longer: {problem}"),
                Event::Apply(_) | Event::Delete(_) | Event::Listed { .. } => {}
            }
            let seen = self.describe(&event);
            self.memory.heard(&event);
            let scope = self.store.apply(event);
            if scope.is_something() {
                self.count(seen);
            }
            changed.add(scope);
        }
        self.update_eligibility();
        if changed.is_something() && self.store.is_synced() {
            self.waiting_since.get_or_insert_with(Instant::now);
            self.state.queued(&FAMILIES);
        }
        changed
    }

    /// Whether this node is to be served at all: looked at once, before the first round.
    fn check_ranges(&mut self) -> Result<(), RunError> {
        if !self.is_strict || !self.store.is_synced() {
            return Ok(());
        }
        let Decision { addresses, own, .. } = self.decide();
        let overlaps = self.services.overlaps(&self.store, &self.view(addresses, own)).unwrap_or_default();
        if !overlaps.is_empty() {
            return Err(RunError::Overlap(overlaps.join("; ")));
        }
        self.is_strict = false;
        Ok(())
    }

    fn decide(&mut self) -> Decision {
        let node_addresses = self.store.node(&self.node_name).map(|node| node.addresses.clone()).unwrap_or_default();
        decide(&self.network.borrow_and_update(), &self.filter, &self.pod_devices, self.growth.xdp, &node_addresses)
    }

    /// This node, for the model.
    fn view(&self, addresses: BTreeSet<IpAddr>, own: BTreeSet<IpAddr>) -> NodeView {
        NodeView { name: self.node_name.clone(), addresses, own, routes: self.network.borrow().routes.clone() }
    }

    /// Whether load balancers are to send clients here. Where there is no cluster, a Node object is not a must, and
    /// before it was asked for, the Services that are in the kernel speak for the node.
    fn update_eligibility(&mut self) {
        let node = self.store.node(&self.node_name);
        self.node_was_there |= node.is_some();
        let is_eligible = match node {
            Some(node) => is_eligible(Some(node)),
            None if !self.is_cluster => !self.node_was_there,
            None if !self.store.has_listed(Kind::Node) => self.services.count() > 0,
            None => false,
        };
        self.state.set_node_eligible(is_eligible);
    }
}
