//! Applying operations to the maps.

use bytemuck::Pod;
use proxy_common::addr::Address;
use proxy_common::maps::{Backend, FrontendKey, RangeKey, ServiceCounters, ServiceNet};

use super::error::MapError;
use super::maps::{FamilyMaps, MapSet};
use crate::plan::{FamilyOp, Op};

impl MapSet {
    /// Does what an operation says. Doing it twice is as good as once.
    ///
    /// # Errors
    /// [`MapError`] names the map and the entry; the map is then as it was.
    pub fn apply(&self, op: &Op) -> Result<(), MapError> {
        match op {
            Op::SetService { id, name } => self.service.set(id, name),
            Op::ResetCounters { id } => self.service_stats.set(id, &ServiceCounters::default()),
            Op::V4(op) => apply(&self.v4, op),
            Op::V6(op) => apply(&self.v6, op),
        }
    }
}

fn apply<A: Address>(maps: &FamilyMaps<A>, op: &FamilyOp<A>) -> Result<(), MapError>
where
    Backend<A>: Pod,
    RangeKey<A>: Pod,
    ServiceNet<A>: Pod,
    FrontendKey<A>: Pod,
{
    match op {
        FamilyOp::SetBackend { id, backend } => maps.backend.set(id, backend),
        FamilyOp::SetSlots { first, backends } => maps.slot.set_range(*first, backends),
        FamilyOp::SetFrontend { key, frontend } => maps.frontend.set(key, frontend),
        FamilyOp::DeleteFrontend { key } => maps.frontend.remove(key),
        FamilyOp::SetServiceNet { index, net } => maps.service_net.set(index, net),
        FamilyOp::SetRange { key } => maps.range.set(key, &1),
        FamilyOp::DeleteRange { key } => maps.range.remove(key),
    }
}
