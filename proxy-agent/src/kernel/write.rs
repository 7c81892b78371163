//! Applying operations to the maps.

use std::fmt::Debug;

use bytemuck::Pod;
use proxy_common::addr::Address;
use proxy_common::maps::{Backend, FrontendKey, RangeKey, ServiceCounters, ServiceNet};

use super::error::MapError;
use super::map::Map;
use super::maps::{FamilyMaps, MapSet};
use crate::plan::{FamilyOp, Op};

/// No more entries are written by one call: between two calls others get their turn.
const RUN: usize = 4096;

impl MapSet {
    /// Does what operations say, in their order: what lies next to each other and goes to one map, by one call.
    ///
    /// # Errors
    /// With the index of the first one that was not done; the error is that of [`Self::apply`].
    pub fn apply_all(&self, ops: &[Op]) -> Result<(), (usize, MapError)> {
        let mut done = 0;
        while let Some(rest) = ops.get(done..)
            && let Some(op) = rest.first()
        {
            let written = match op {
                Op::V4(_) => {
                    write_run(&self.v4, rest.iter().map_while(|op| if let Op::V4(op) = op { Some(op) } else { None }))
                }
                Op::V6(_) => {
                    write_run(&self.v6, rest.iter().map_while(|op| if let Op::V6(op) = op { Some(op) } else { None }))
                }
                _ => 0,
            };
            if written == 0 {
                self.apply(op).map_err(|error| (done, error))?;
            }
            done += written.max(1);
        }
        Ok(())
    }

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

/// Writes the entries that lie next to each other at the beginning and go to one map, by one call of the kernel. How many;
/// 0 where that is not possible or not worth it.
fn write_run<'o, A: Address + 'o>(maps: &FamilyMaps<A>, ops: impl Iterator<Item = &'o FamilyOp<A>>) -> usize
where
    Backend<A>: Pod,
    FrontendKey<A>: Pod,
    RangeKey<A>: Pod,
{
    let mut ops = ops.peekable();
    match ops.peek() {
        Some(FamilyOp::SetBackend { .. }) => write_all(&maps.backend, ops, |op| match op {
            FamilyOp::SetBackend { id, backend } => Some((*id, *backend)),
            _ => None,
        }),
        Some(FamilyOp::SetFrontend { .. }) => write_all(&maps.frontend, ops, |op| match op {
            FamilyOp::SetFrontend { key, frontend } => Some((*key, *frontend)),
            _ => None,
        }),
        Some(FamilyOp::SetRange { .. }) => write_all(&maps.range, ops, |op| match op {
            FamilyOp::SetRange { key } => Some((*key, 1)),
            _ => None,
        }),
        _ => 0,
    }
}

fn write_all<'o, A: Address + 'o, K: Pod + Debug, V: Pod>(
    map: &Map<K, V>,
    ops: impl Iterator<Item = &'o FamilyOp<A>>,
    entry: impl Fn(&FamilyOp<A>) -> Option<(K, V)>,
) -> usize {
    let (keys, values): (Vec<K>, Vec<V>) = ops.map_while(entry).take(RUN).unzip();
    if keys.len() > 1 && map.set_all(&keys, &values) { keys.len() } else { 0 }
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
