//! `proxy-agent run`: the one task that owns the state.
//!
//! Sources of objects, the network namespace and signals send it messages; it alone changes maps and devices.
//! News that come together are worked off together. What fails is tried again, later each time, on the state
//! read anew; nothing is taken for granted that was not read or written.
//!
//! When it ends, by a signal or a crash, the kernel goes on with what it has.

mod devices;
mod rules;
mod services;
mod sockets;
mod sysctl;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::cli::RunArgs;
use crate::config::{ConfigError, Settings};
use crate::devices::{Decision, DeviceFilter, NetlinkError, Network, PodDevices, decide, follow};
use crate::event::{Event, EventReceiver};
use crate::kernel::{
    self, AttachMode, Attacher, LoadError, LogError, MapError, MapSet, MapSetError, PacketLog, PinError, Programs,
};
use crate::output::chain;
use crate::store::Store;
use crate::watch::api::ApiOptions;
use crate::watch::{Source, SourceError};
use devices::Devices;
use services::Services;
use sockets::Sockets;

/// News are worked off so long after the first one: what comes together is done together.
const COALESCE: Duration = Duration::from_millis(3);
/// What failed is tried again after this, and after twice as long each time it fails again.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest time to the next try.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Attached programs are looked at so often, as somebody may have detached them.
const INSPECTION: Duration = Duration::from_secs(30);

/// Flows that are over are removed so often.
const EXPIRY: Duration = Duration::from_secs(15);

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The pin path cannot be used, or another agent has it.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no source of objects that can be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The kernel programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Their log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The maps cannot be opened.
    #[error(transparent)]
    Maps(#[from] MapSetError),
    /// The maps cannot be read.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The network devices cannot be found.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Signals cannot be received.
    #[error("setting up the signals")]
    Signal(#[source] std::io::Error),
}

/// Runs the agent until it gets SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start. Once started, errors are logged and what failed is tried again.
pub async fn run(args: RunArgs, log: PacketLog) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    let settings = Settings::load(args.config.as_deref(), &args.kube_proxy)?;
    for warning in [settings.warning(), settings.not_yet()].into_iter().flatten() {
        tracing::warn!("{warning}");
    }
    let node_name = node_name(args.node_name, &settings);
    let api = ApiOptions {
        kubeconfig: args.kubeconfig.or_else(|| settings.kubeconfig.clone()),
        servers: args.api_servers,
        node_name: node_name.clone(),
        proxy_name: args.service_proxy_name.clone(),
    };
    let source = Source::open(args.manifests.as_deref(), api).await?;

    let pins = args.pins.path();
    let _lock = pins.prepare()?;
    let mut programs = Programs::load(&pins, &args.sizes, log, args.socket_lb)?;
    if log != PacketLog::Off {
        programs.forward_log()?;
    }
    let maps = MapSet::open(&pins.maps())?;
    let mode = args.attach.unwrap_or_else(AttachMode::detect);
    let network = follow().await?;
    sysctl::check(&network.borrow());

    let sockets = Sockets::new(args.socket_lb, args.cgroup, &mut programs, pins.clone());
    let (mut options, pod_devices) = rules::of(&settings, args.service_proxy_name, args.rules);
    options.localhost_node_ports = settings.localhost_node_ports() && sockets.are_served();
    let services = Services::new(maps, node_name.clone(), options, args.sizes.into())?;
    tracing::info!(
        "node {}, pins at {}, attaching by {}",
        node_name,
        pins.path().display(),
        match mode {
            AttachMode::Tcx => "TCX links",
            AttachMode::Clsact => "clsact filters",
        }
    );
    let (sender, events) = mpsc::channel(64);
    tokio::spawn(source.run(sender));
    let mut owner = Owner {
        store: Store::default(),
        network,
        filter: args.devices.unwrap_or_default(),
        pod_devices,
        node_name,
        services,
        devices: Devices::new(Attacher::new(programs, pins, mode)),
        sockets,
        is_ready: false,
    };
    tokio::select! {
        () = owner.work(events) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
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
    devices: Devices,
    sockets: Sockets,
    is_ready: bool,
}

impl Owner {
    /// Works off news for ever.
    async fn work(&mut self, mut events: EventReceiver) {
        let mut inspection = interval(INSPECTION);
        inspection.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut expiry = interval(EXPIRY);
        expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due: Option<Instant> = None;
        let mut delay = FIRST_RETRY;
        let mut is_following = true;
        loop {
            let soon = Instant::now() + COALESCE;
            tokio::select! {
                Some(news) = events.recv() => {
                    if self.take(news) {
                        due = Some(due.map_or(soon, |due| due.min(soon)));
                    }
                }
                changed = self.network.changed(), if is_following => {
                    is_following = changed.is_ok();
                    // A new device may get its first address any moment: at once.
                    due = Some(Instant::now());
                }
                _ = expiry.tick() => self.expire(),
                _ = inspection.tick() => due = Some(due.map_or(soon, |due| due.min(soon))),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    if self.bring_into_kernel() {
                        delay = FIRST_RETRY;
                    } else {
                        due = Some(Instant::now() + delay);
                        delay = (delay * 2).min(LAST_RETRY);
                    }
                }
            }
        }
    }

    /// Removes the flows and affinities that are over.
    fn expire(&self) {
        let expired = kernel::now().map(|now| u32::try_from(now).unwrap_or(u32::MAX));
        match expired.map(|now| self.services.expire(now)) {
            Ok(Ok(0)) => {}
            Ok(Ok(entries)) => tracing::debug!("{entries} entries of flows and affinities that are over removed"),
            Ok(Err(error)) => tracing::warn!("removing flows that are over: {}", chain(&error)),
            Err(error) => tracing::warn!("removing flows that are over: the clock: {error}"),
        }
    }

    /// Takes news in. Returns whether anything is to be done about them.
    fn take(&mut self, news: Vec<Event>) -> bool {
        let mut is_changed = false;
        for event in news {
            match &event {
                Event::Problem(problem) => tracing::warn!("{problem}"),
                Event::Mended(problem) => tracing::info!("no longer: {problem}"),
                Event::Apply(_) | Event::Delete(_) | Event::Listed { .. } => {}
            }
            is_changed |= self.store.apply(event);
        }
        is_changed
    }

    /// Makes devices and maps what they should be. False if something has to be tried again.
    fn bring_into_kernel(&mut self) -> bool {
        let node_addresses = self.node_addresses();
        let Decision { attach, addresses, own } = {
            let network = self.network.borrow_and_update();
            decide(&network, &self.filter, &self.pod_devices, &node_addresses)
        };
        let devices = self.devices.reconcile(attach, self.services.maps());
        let services = match self.services.reconcile(&self.store, addresses, own) {
            Ok(is_done) => is_done,
            Err(error) => {
                tracing::error!("{}; trying again on the state read anew", chain(&error));
                false
            }
        };
        let sockets = self.sockets.reconcile(self.devices.programs());
        if self.services.has_freed() {
            self.sockets.abort_orphans(self.services.maps());
        }
        if devices && services && sockets && !self.is_ready && self.store.is_synced() {
            self.is_ready = true;
            tracing::info!("ready: Service ports: {}, devices: {}", self.services.count(), self.devices.count());
        }
        devices && services && sockets
    }

    fn node_addresses(&self) -> BTreeSet<IpAddr> {
        self.store.node(&self.node_name).map(|node| node.addresses.clone()).unwrap_or_default()
    }
}
