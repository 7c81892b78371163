//! The tables of flows, looked after in place: what is over goes, what is there is counted.
//!
//! The programs need none of it. An agent may be killed at any moment here: it takes no lock.

use std::io;
use std::os::fd::AsFd;

use bytemuck::Pod;
use proxy_common::flows::{FlowMemory, FlowUse, SetRef, Shared, sweep};
use proxy_common::maps::{FlowConfig, FlowEvent, FlowLimits, FlowSet};

use super::error::MapError;
use super::map::Map;
use super::mapping::Mapping;
use super::maps::MapSet;
use super::sys;

/// The only key of `flow_config`.
const CONFIG: u32 = 0;

/// What programs and agent have to agree upon about tables of so many sets, on this kernel.
///
/// # Errors
/// When the kernel does not tell how long its ticks are.
pub fn flow_config(sets: u32, limits: FlowLimits) -> io::Result<FlowConfig> {
    Ok(FlowConfig::new(fastrand::u64(1..), sys::jiffies_per_second()?, sets, limits))
}

impl MapSet {
    /// Writes what the programs have to know about the tables, unless an agent before this one has: while there are flows,
    /// it must stay as it is.
    pub(super) fn prepare_flows(&self) -> Result<(), MapError> {
        let sets = self.v4.flow.capacity().min(self.v6.flow.capacity());
        if self.flow_config()?.is_some_and(|config| config.seed != 0 && config.sets == sets) {
            return Ok(());
        }
        let config = flow_config(sets, FlowLimits::DEFAULT).map_err(|source| self.config_error("preparing", source))?;
        self.flow_config.set(&CONFIG, &config)
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
        Ok(self.flow_config.get(&CONFIG)?.and_then(|values| values.first().copied()))
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

    fn config_error(&self, action: &'static str, source: io::Error) -> MapError {
        MapError::Access { action, map: self.flow_config.name(), entry: CONFIG.to_string(), source }
    }
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
    let length = map.capacity() as usize * size_of::<FlowSet<A>>();
    let mapping = Mapping::new(map.as_fd(), length).map_err(|source| MapError::Access {
        action: "mapping",
        map: map.name(),
        entry: "all entries".to_owned(),
        source,
    })?;
    Ok(sweep::<A>(&MappedFlows { mapping, config }, now))
}
