//! The tables of flows, looked after in place: what is over goes, what is there is counted.
//!
//! The programs need none of it. An agent may be killed at any moment here: it takes no lock.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use bytemuck::Pod;
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::flows::{Carried, FlowMemory, FlowUse, SetRef, Shared, carry, staying, sweep};
use proxy_common::maps::{FlowConfig, FlowEvent, FlowHold, FlowLimits, FlowSet};

use super::clock;
use super::error::{LoadError, MapError};
use super::map::Map;
use super::mapping::Mapping;
use super::maps::{FlowTables, MapSet};

/// The only key of `flow_config` and of `flow_hold`.
const CONFIG: u32 = 0;
/// So many sets are looked at to tell how full a table is: within some percent.
const SAMPLE: u32 = 1_024;
/// New flows wait for so many seconds at most, while programs are replaced: if the agent is killed meanwhile.
const HOLD: u32 = 5;

/// What programs and agent have to agree upon about tables of so many sets, on this kernel.
///
/// # Errors
/// When the kernel does not tell how long its ticks are.
pub fn flow_config(sets: u32, limits: FlowLimits) -> io::Result<FlowConfig> {
    Ok(FlowConfig::new(fastrand::u64(1..), clock::jiffies_per_second()?, sets, limits))
}

impl MapSet {
    /// Writes what the programs have to know about the tables, unless an agent before this one has: while there are flows,
    /// it must stay as it is. `former` is the folder of the set whose flows are to be carried over.
    pub(super) fn prepare_flows(&self, former: Option<&Path>) -> Result<(), LoadError> {
        let sets = self.v4.flow.capacity().min(self.v6.flow.capacity());
        if self.flow_config()?.is_some_and(|config| config.seed != 0 && config.sets == sets) {
            return Ok(());
        }
        let known = match former {
            Some(folder) => FlowTables::open(folder)?.config()?,
            None => None,
        };
        let config = match known {
            Some(known) => FlowConfig { sets, ..known },
            None => flow_config(sets, FlowLimits::DEFAULT)
                .map_err(|source| access(self.flow_config.name(), "preparing", source))?,
        };
        Ok(self.flow_config.set(&CONFIG, &config)?)
    }

    /// Says after which times flows are over, from now on.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn set_flow_limits(&self, limits: FlowLimits) -> Result<(), MapError> {
        match self.flow_config()? {
            Some(config) if config.lives != limits.lives() => {
                self.flow_config.set(&CONFIG, &FlowConfig { lives: limits.lives(), ..config })
            }
            _ => Ok(()),
        }
    }

    fn flow_config(&self) -> Result<Option<FlowConfig>, MapError> {
        first(&self.flow_config)
    }

    /// Removes the flows that are over at `now` (whole seconds of CLOCK_MONOTONIC), and counts what is in the tables of
    /// both families.
    ///
    /// # Errors
    /// When a table cannot be mapped into memory.
    pub fn sweep_flows(&self, now: u32) -> Result<[FlowUse; 2], MapError> {
        let Some(config) = self.flow_config()?.filter(|config| config.seed != 0) else {
            return Ok([FlowUse::default(); 2]);
        };
        Ok([sweep_family(&self.v4.flow, config, now)?, sweep_family(&self.v6.flow, config, now)?])
    }

    /// About how many entries of the fuller table of flows no new flow may take.
    ///
    /// # Errors
    /// When a table cannot be mapped into memory.
    pub fn staying_flows(&self) -> Result<u32, MapError> {
        let Some(config) = self.flow_config()?.filter(|config| config.seed != 0) else { return Ok(0) };
        let now = now().map_err(|source| access(self.flow_config.name(), "reading the clock for", source))?;
        let v4 = staying::<Ipv4>(&mapped(&self.v4.flow, config)?, now, SAMPLE);
        Ok(v4.max(staying::<Ipv6>(&mapped(&self.v6.flow, config)?, now, SAMPLE)))
    }
}

fn first<V: Pod>(map: &Map<u32, V>) -> Result<Option<V>, MapError> {
    Ok(map.get(&CONFIG)?.and_then(|values| values.first().copied()))
}

fn access(map: &'static str, action: &'static str, source: io::Error) -> MapError {
    MapError::Access { action, map, entry: CONFIG.to_string(), source }
}

impl FlowTables {
    fn config(&self) -> Result<Option<FlowConfig>, MapError> {
        Ok(first(&self.config)?.filter(|config| config.seed != 0))
    }

    /// Both tables in this process's memory. `None` where no agent has prepared them.
    fn mapped(&self) -> Result<Option<MappedTables>, MapError> {
        let Some(config) = self.config()? else { return Ok(None) };
        Ok(Some(MappedTables { v4: mapped(&self.v4, config)?, v6: mapped(&self.v6, config)? }))
    }

    /// Whether new flows were told to wait, and that was not taken back.
    pub(super) fn is_held(&self) -> Result<bool, MapError> {
        let hold = self.hold.as_ref().map_or(Ok(None), first)?;
        Ok(hold.is_some_and(|hold| hold.until != 0))
    }
}

/// The tables of both families.
struct MappedTables {
    v4: MappedFlows,
    v6: MappedFlows,
}

/// Tables of flows on their way to such of another size.
///
/// All is mapped when it is made: what is done while new flows wait is to be short.
pub struct FlowMove {
    from: MappedTables,
    to: MappedTables,
    hold: Option<Map<u32, FlowHold>>,
}

impl FlowMove {
    /// Between the tables of two sets. `None` where there is nothing to be carried.
    pub(super) fn new(from: &FlowTables, to: FlowTables) -> Result<Option<Self>, MapError> {
        let tables = from.mapped()?.zip(to.mapped()?);
        Ok(tables.map(|(mapped_from, mapped_to)| Self { from: mapped_from, to: mapped_to, hold: to.hold }))
    }

    /// Carries the flows over of which a packet was seen at `since` or later, in seconds since boot.
    ///
    /// # Errors
    /// When the clock cannot be read.
    pub fn carry(&self, since: u32) -> io::Result<Carried> {
        let now = now()?;
        let v4 = carry::<Ipv4>(&self.from.v4, &self.to.v4, since, now);
        let v6 = carry::<Ipv6>(&self.from.v6, &self.to.v6, since, now);
        Ok(Carried { stored: v4.stored + v6.stored, there: v4.there + v6.there, lost: v4.lost + v6.lost })
    }

    /// Has new flows wait until [`Self::release`], or for some seconds if that does not come.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn hold(&self) -> Result<(), MapError> {
        let Some(hold) = &self.hold else { return Ok(()) };
        let now = now().map_err(|source| access(hold.name(), "writing", source))?;
        hold.set(&CONFIG, &FlowHold { until: now + HOLD })
    }

    /// Lets new flows begin.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn release(&self) -> Result<(), MapError> {
        self.hold.as_ref().map_or(Ok(()), |hold| hold.set(&CONFIG, &FlowHold::default()))
    }
}

/// Whole seconds since boot: the clock of flows.
fn now() -> io::Result<u32> {
    Ok(u32::try_from(clock::monotonic_seconds()?).unwrap_or(u32::MAX))
}

/// A table in this process's memory.
struct MappedFlows {
    mapping: Mapping,
    config: FlowConfig,
}

impl<A: Shared> FlowMemory<A> for MappedFlows {
    fn set(&self, index: u32) -> Option<SetRef<'_, A>> {
        let set = self.mapping.at::<FlowSet<A>>(index as usize * size_of::<FlowSet<A>>())?;
        // SAFETY: the set lies in the mapping for as long as `self` lives, and the programs use it in the same way.
        Some(unsafe { SetRef::new(set) })
    }

    fn config(&self) -> &FlowConfig {
        &self.config
    }

    fn count(&self, _event: FlowEvent) {}
}

fn sweep_family<A: Shared>(map: &Map<u32, FlowSet<A>>, config: FlowConfig, now: u32) -> Result<FlowUse, MapError>
where
    FlowSet<A>: Pod,
{
    Ok(sweep::<A>(&mapped(map, config)?, now))
}

fn mapped<A: Shared>(map: &Map<u32, FlowSet<A>>, config: FlowConfig) -> Result<MappedFlows, MapError>
where
    FlowSet<A>: Pod,
{
    let length = map.capacity() as usize * size_of::<FlowSet<A>>();
    let mapping = Mapping::new(map.as_fd(), length).map_err(|source| MapError::Access {
        action: "mapping",
        map: map.name(),
        entry: "all entries".to_owned(),
        source,
    })?;
    Ok(MappedFlows { mapping, config })
}
