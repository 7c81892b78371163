//! Keeping programs on the devices that should have them, and the `device` map true to them.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::maps::DeviceRole;

use crate::devices::{Layer, Target, Xdp};
use crate::kernel::{Attached, Attacher, MapError, MapSet, Programs, device_name};
use crate::output::chain;
use crate::serve::Metrics;
use crate::serve::metrics::gauge;

/// The devices that are attached to.
pub(super) struct Devices {
    attacher: Attacher,
    attached: BTreeMap<u32, Target>,
    /// Errors that have been reported, by ifindex: none is repeated while it stays the same.
    troubles: BTreeMap<u32, String>,
    /// Those of XDP programs, which devices can do without; likewise.
    xdp_troubles: BTreeMap<u32, String>,
    is_swept: bool,
}

impl Devices {
    pub(super) fn new(attacher: Attacher) -> Self {
        Self {
            attacher,
            attached: BTreeMap::new(),
            troubles: BTreeMap::new(),
            xdp_troubles: BTreeMap::new(),
            is_swept: false,
        }
    }

    /// Goes on with other programs, which every device gets when it is next attached to.
    pub(super) fn replace(&mut self, programs: Programs) {
        self.attacher.replace(programs);
    }

    /// The programs, those of other hooks among them.
    pub(super) fn programs(&self) -> &Programs {
        self.attacher.programs()
    }

    /// Says that the maps of the programs have been filled. False if that has to be tried again.
    pub(super) fn are_filled(&mut self) -> bool {
        let result = self.attacher.are_filled();
        if let Err(error) = &result {
            tracing::error!("{}; trying again", chain(error));
        }
        result.is_ok()
    }

    /// How many devices have the programs.
    pub(super) fn count(&self) -> usize {
        self.attached.len()
    }

    /// Attaches to these devices and no others; with `look_closely`, what is known to be there is looked at again. False if
    /// something has to be tried again.
    pub(super) fn reconcile(
        &mut self,
        targets: BTreeMap<u32, Target>,
        look_closely: bool,
        maps: &MapSet,
        metrics: &Metrics,
    ) -> bool {
        let mut is_done = self.sweep(&targets, maps);
        for (ifindex, target) in &targets {
            let target = self.attach_xdp(*ifindex, target, metrics);
            match self.attach(*ifindex, &target, look_closely, maps, metrics) {
                Ok(()) => drop(self.troubles.remove(ifindex)),
                // Gone since it was listed: the next list lacks it.
                Err(_) if device_name(*ifindex).is_none() => {}
                Err(trouble) => {
                    is_done = false;
                    self.report(*ifindex, &target.name, trouble);
                }
            }
        }
        let of_role = |role: DeviceRole| self.attached.values().filter(|it| it.device.role == role as u8).count();
        metrics.set_devices("pod", of_role(DeviceRole::Pod));
        metrics.set_devices("uplink", of_role(DeviceRole::Uplink));
        metrics.xdp_devices.set(gauge(self.attached.values().filter(|it| it.xdp.is_some()).count()));
        metrics.devices_failing.set(gauge(self.troubles.len()));
        metrics.set_entries("device", self.attached.len());
        is_done
    }

    /// Attaches the XDP program to a device that is to have it, and takes it from another. Answers what the device is then:
    /// one whose driver does not take it has tc alone.
    fn attach_xdp(&mut self, ifindex: u32, target: &Target, metrics: &Metrics) -> Target {
        let mut target = target.clone();
        let name = &target.name;
        let result = match target.xdp {
            Some(how) => self
                .attacher
                .attach_xdp(ifindex, how, target.has_xdp)
                .map(|attached| match attached {
                    Attached::New => tracing::info!("device {name}: XDP attached ({})", described(how)),
                    Attached::Adopted => tracing::info!("device {name}: XDP program replaced"),
                    Attached::Repaired => {
                        metrics.repaired("device", 1);
                        tracing::warn!("device {name}: the XDP program had been detached, and is back");
                    }
                    Attached::Unchanged => {}
                })
                .map_err(|error| chain(&error).to_string()),
            None => self
                .attacher
                .detach_xdp(ifindex)
                .map(|was_there| {
                    if was_there {
                        tracing::info!("device {name}: XDP detached");
                    }
                })
                .map_err(|error| chain(&error).to_string()),
        };
        match result {
            Ok(()) => drop(self.xdp_troubles.remove(&ifindex)),
            Err(trouble) => {
                if self.xdp_troubles.get(&ifindex) != Some(&trouble) {
                    tracing::warn!("device {name}: {trouble}: tc does all the work there");
                    self.xdp_troubles.insert(ifindex, trouble);
                }
                target.xdp = None;
            }
        }
        target
    }

    fn attach(
        &mut self,
        ifindex: u32,
        target: &Target,
        look_closely: bool,
        maps: &MapSet,
        metrics: &Metrics,
    ) -> Result<(), String> {
        let known = self.attached.get(&ifindex);
        let is_known = known.is_some_and(|known| known.device == target.device);
        // Before the programs: they read it.
        if (look_closely || !is_known)
            && write_device(ifindex, target, maps).map_err(|error| chain(&error).to_string())?
        {
            metrics.map_writes.inc();
            if is_known {
                metrics.repaired("entry", 1);
                tracing::warn!("device {}: its entry in the map had been changed, and is back", target.name);
            }
        }
        let outcome = self
            .attacher
            .attach(ifindex, &target.name, target.layer, look_closely)
            .map_err(|error| chain(&error).to_string())?;
        let described = describe(target);
        match outcome {
            Attached::New => tracing::info!("device {described}: attached"),
            Attached::Adopted => tracing::info!("device {described}: programs replaced"),
            Attached::Repaired => {
                metrics.repaired("device", 1);
                tracing::warn!("device {described}: the programs had been detached, and are back");
            }
            Attached::Unchanged if known.is_some_and(|known| known.device != target.device) => {
                tracing::info!("device {described}: changed");
            }
            Attached::Unchanged => {}
        }
        self.attached.insert(ifindex, target.clone());
        Ok(())
    }

    /// Leaves the devices that are not wanted. Devices that an earlier agent left there are looked for once.
    fn sweep(&mut self, targets: &BTreeMap<u32, Target>, maps: &MapSet) -> bool {
        let mut candidates: BTreeSet<u32> = self.attached.keys().copied().collect();
        if !self.is_swept {
            match self.of_earlier_agents(maps) {
                Ok(earlier) => candidates.extend(earlier),
                Err(trouble) => {
                    tracing::error!("{trouble}; trying again");
                    return false;
                }
            }
        }
        let mut is_done = true;
        for ifindex in candidates.into_iter().filter(|ifindex| !targets.contains_key(ifindex)) {
            let name = device_name(ifindex);
            let result = self
                .attacher
                .detach(ifindex, name.as_deref())
                .map_err(|error| chain(&error).to_string())
                .and_then(|()| maps.device.remove(&ifindex).map_err(|error| chain(&error).to_string()));
            match result {
                Ok(()) => {
                    let known = self.attached.remove(&ifindex).map(|target| target.name);
                    self.troubles.remove(&ifindex);
                    let known = known.or_else(|| name.clone()).unwrap_or_else(|| ifindex.to_string());
                    tracing::info!("device {known}: {}", if name.is_some() { "detached" } else { "gone" });
                }
                Err(trouble) => {
                    is_done = false;
                    self.report(ifindex, name.as_deref().unwrap_or_default(), trouble);
                }
            }
        }
        self.is_swept = is_done;
        is_done
    }

    /// Says what is wrong with a device, once, until it is something else.
    fn report(&mut self, ifindex: u32, name: &str, trouble: String) {
        if self.troubles.get(&ifindex) != Some(&trouble) {
            tracing::error!("device {name} ({ifindex}): {trouble}; trying again");
            self.troubles.insert(ifindex, trouble);
        }
    }

    fn of_earlier_agents(&self, maps: &MapSet) -> Result<BTreeSet<u32>, String> {
        let mut devices = self.attacher.devices().map_err(|error| chain(&error).to_string())?;
        let read: Result<(), MapError> = maps.device.for_each(|ifindex, _| {
            devices.insert(ifindex);
        });
        read.map_err(|error| chain(&error).to_string())?;
        Ok(devices)
    }
}

/// Writes the entry of a device, unless it is there. Returns whether it did.
fn write_device(ifindex: u32, target: &Target, maps: &MapSet) -> Result<bool, MapError> {
    let is_there = maps.device.get(&ifindex)?.is_some_and(|devices| devices.first() == Some(&target.device));
    if !is_there {
        maps.device.set(&ifindex, &target.device)?;
    }
    Ok(!is_there)
}

fn describe(target: &Target) -> String {
    let role = if target.device.role == DeviceRole::Uplink as u8 { "uplink" } else { "pod" };
    let layer = match target.layer {
        Layer::Ethernet => "",
        Layer::BridgePort => ", port of a bridge",
        Layer::Uplink => ", sends on",
        Layer::Ip => ", no Ethernet header",
    };
    format!("{} ({role}{layer})", target.name)
}

fn described(how: Xdp) -> &'static str {
    match how {
        Xdp::Native => "native",
        Xdp::Generic => "generic",
    }
}
