//! The table of flows in ordinary memory, for as many threads as want it.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::Zeroable;
use proxy_common::flows::{FlowMemory, SetRef, Shared};
use proxy_common::maps::{FlowConfig, FlowEvent, FlowSet};

/// A table in memory; clones are the same table, see [`HostFlows::copy`].
pub struct HostFlows<A: Shared>(Arc<Table<A>>);

struct Table<A: Shared> {
    sets: Box<[UnsafeCell<FlowSet<A>>]>,
    config: FlowConfig,
    events: [AtomicU64; FlowEvent::ALL.len()],
}

// SAFETY: the sets are only ever used through `SetRef`, whose operations are atomic.
unsafe impl<A: Shared> Sync for Table<A> {}
// SAFETY: plain data.
unsafe impl<A: Shared> Send for Table<A> {}

impl<A: Shared> Clone for HostFlows<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Shared> HostFlows<A>
where
    FlowSet<A>: Zeroable,
{
    /// An empty table.
    pub fn new(config: FlowConfig) -> Self {
        let sets = (0..config.sets).map(|_| UnsafeCell::new(FlowSet::zeroed())).collect();
        Self(Arc::new(Table { sets, config, events: Default::default() }))
    }
}

impl<A: Shared> HostFlows<A> {
    /// Another table that has the same in it. Nobody else may be using this one.
    pub fn copy(&self) -> Self {
        let sets = self.0.sets.iter();
        // SAFETY: nobody writes, as the caller sees to.
        let sets = sets.map(|set| UnsafeCell::new(unsafe { *set.get() })).collect();
        let events = std::array::from_fn(|event| AtomicU64::new(self.0.events[event].load(Ordering::Relaxed)));
        Self(Arc::new(Table { sets, config: self.0.config, events }))
    }

    /// How often something happened.
    pub fn events(&self, event: FlowEvent) -> u64 {
        self.0.events.get(event as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl<A: Shared> FlowMemory<A> for HostFlows<A> {
    fn set(&self, index: u32) -> Option<SetRef<'_, A>> {
        let set = NonNull::new(self.0.sets.get(index as usize)?.get())?;
        // SAFETY: the sets live as long as `self`, and nothing else touches them.
        Some(unsafe { SetRef::new(set) })
    }

    fn config(&self) -> &FlowConfig {
        &self.0.config
    }

    fn count(&self, event: FlowEvent) {
        if let Some(count) = self.0.events.get(event as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}
