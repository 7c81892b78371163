//! Reading everything back from the maps.

use bytemuck::Pod;
use proxy_common::maps::{Backend, RangeKey, ServiceName, ServiceNet};

use super::error::MapError;
use super::maps::{FamilyMaps, MapSet};
use crate::plan::{FamilyOp, Op, PlanFamily, Realized};

impl MapSet {
    /// What the maps hold.
    ///
    /// Entries that were never written are left out; freed ones are not, for their generation.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn read(&self) -> Result<Realized, MapError> {
        let mut realized = Realized::default();
        self.service.for_each(|id, names| {
            if let [name] = names
                && !is_zero(name)
            {
                realized.apply(&Op::SetService { id, name: Box::new(*name) });
            }
        })?;
        read_family(&self.v4, &mut realized)?;
        read_family(&self.v6, &mut realized)?;
        Ok(realized)
    }

    /// The names of the Service ports, by id.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn names(&self) -> Result<std::collections::BTreeMap<u32, ServiceName>, MapError> {
        let mut all = std::collections::BTreeMap::new();
        self.service.for_each(|id, names| {
            if let [name] = names
                && !is_zero(name)
            {
                all.insert(id, *name);
            }
        })?;
        Ok(all)
    }
}

fn read_family<A>(maps: &FamilyMaps<A>, realized: &mut Realized) -> Result<(), MapError>
where
    A: PlanFamily,
    Backend<A>: Pod,
    RangeKey<A>: Pod,
    ServiceNet<A>: Pod,
    proxy_common::maps::FrontendKey<A>: Pod,
{
    maps.backend.for_each(|id, backends| {
        if let [backend] = backends
            && !is_zero(backend)
        {
            realized.apply(&A::op(FamilyOp::SetBackend { id, backend: *backend }));
        }
    })?;
    let mut slots = Vec::new();
    maps.slot.for_each(|index, backends| {
        if let [backend] = backends
            && *backend != 0
        {
            slots.resize(index as usize, 0);
            slots.push(*backend);
        }
    })?;
    realized.apply(&A::op(FamilyOp::SetSlots { first: 0, backends: slots.into() }));
    maps.service_net.for_each(|index, nets| {
        if let [net] = nets {
            realized.apply(&A::op(FamilyOp::SetServiceNet { index, net: *net }));
        }
    })?;
    maps.range.for_each(|key, _| realized.apply(&A::op(FamilyOp::SetRange { key })))?;
    maps.frontend.for_each(|key, frontends| {
        if let [frontend] = frontends {
            realized.apply(&A::op(FamilyOp::SetFrontend { key, frontend: *frontend }));
        }
    })
}

fn is_zero<T: Pod>(value: &T) -> bool {
    bytemuck::bytes_of(value).iter().all(|byte| *byte == 0)
}
