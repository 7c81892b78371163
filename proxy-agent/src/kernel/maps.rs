//! The set of pinned maps.
//!
//! The kernel programs are loaded with these maps, so the loader is what creates them; here they are opened after
//! that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bytemuck::Pod;
use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::maps::{
    Affinity, AffinityKey, Backend, DatagramKey, Device, Early, EarlyKey, FlowConfig, FlowHold, FlowSet, Fragment,
    FragmentKey, Frontend, FrontendKey, Peer, RangeKey, RangeMark, ServiceCounters, ServiceName, ServiceNet, SlotIndex,
};

use super::error::MapSetError;
use super::map::Map;
use super::raw::RawMap;
use super::spec::{self, MapKind, Shape, Sizes, Spec};
use super::sys::{self, MapInfo};

/// The maps of one family.
#[derive(Debug)]
pub struct FamilyMaps<A: Address> {
    /// `frontend_v4` or `frontend_v6`.
    pub frontend: Map<FrontendKey<A>, Frontend>,
    /// `slot_v4` or `slot_v6`.
    pub slot: Map<u32, SlotIndex>,
    /// `backend_v4` or `backend_v6`.
    pub backend: Map<u32, Backend<A>>,
    /// `range_v4` or `range_v6`.
    pub range: Map<RangeKey<A>, RangeMark>,
    /// `service_net_v4` or `service_net_v6`.
    pub service_net: Map<u32, ServiceNet<A>>,
    /// `affinity_v4` or `affinity_v6`.
    pub affinity: Map<AffinityKey<A>, Affinity>,
    /// `flow_v4` or `flow_v6`.
    pub flow: Map<u32, FlowSet<A>>,
    /// `peer_v4` or `peer_v6`. The keys are descriptors of sockets of one's own.
    pub peer: Map<u32, Peer<A>>,
    /// `datagram_v4` or `datagram_v6`.
    pub datagram: Map<DatagramKey<A>, Peer<A>>,
    /// `fragment_v4` or `fragment_v6`.
    pub fragment: Map<FragmentKey<A>, Fragment<A>>,
}

/// All maps, opened.
#[derive(Debug)]
pub struct MapSet {
    /// The IPv4 maps.
    pub v4: FamilyMaps<Ipv4>,
    /// The IPv6 maps.
    pub v6: FamilyMaps<Ipv6>,
    /// `flow_config`.
    pub(super) flow_config: Map<u32, FlowConfig>,
    /// `flow_stats`.
    pub flow_stats: Map<u32, u64>,
    /// `service`.
    pub service: Map<u32, ServiceName>,
    /// `service_stats`.
    pub service_stats: Map<u32, ServiceCounters>,
    /// `drop_stats`.
    pub drop_stats: Map<u32, u64>,
    /// `xdp_stats`.
    pub xdp_stats: Map<u32, u64>,
    /// `device`.
    pub device: Map<u32, Device>,
    /// `early`.
    pub(super) early: Map<EarlyKey, Early>,
}

impl MapSet {
    /// Opens the maps pinned in a folder, of whatever size they are.
    ///
    /// # Errors
    /// When one is missing, cannot be opened, or has another type or layout.
    pub fn open(folder: &Path) -> Result<Self, MapSetError> {
        let cpus = aya::util::nr_cpus().map_err(|(path, source)| MapSetError::Cpus { path, source })?;
        let open = Opener { folder, cpus };
        Ok(Self {
            v4: FamilyMaps {
                frontend: open.map(&spec::FRONTEND_V4)?,
                slot: open.map(&spec::SLOT_V4)?,
                backend: open.map(&spec::BACKEND_V4)?,
                range: open.map(&spec::RANGE_V4)?,
                service_net: open.map(&spec::SERVICE_NET_V4)?,
                affinity: open.map(&spec::AFFINITY_V4)?,
                flow: open.map(&spec::FLOW_V4)?,
                peer: open.map(&spec::PEER_V4)?,
                datagram: open.map(&spec::DATAGRAM_V4)?,
                fragment: open.map(&spec::FRAGMENT_V4)?,
            },
            v6: FamilyMaps {
                frontend: open.map(&spec::FRONTEND_V6)?,
                slot: open.map(&spec::SLOT_V6)?,
                backend: open.map(&spec::BACKEND_V6)?,
                range: open.map(&spec::RANGE_V6)?,
                service_net: open.map(&spec::SERVICE_NET_V6)?,
                affinity: open.map(&spec::AFFINITY_V6)?,
                flow: open.map(&spec::FLOW_V6)?,
                peer: open.map(&spec::PEER_V6)?,
                datagram: open.map(&spec::DATAGRAM_V6)?,
                fragment: open.map(&spec::FRAGMENT_V6)?,
            },
            flow_config: open.map(&spec::FLOW_CONFIG)?,
            flow_stats: open.map(&spec::FLOW_STATS)?,
            service: open.map(&spec::SERVICE)?,
            service_stats: open.map(&spec::SERVICE_STATS)?,
            drop_stats: open.map(&spec::DROP_STATS)?,
            xdp_stats: open.map(&spec::XDP_STATS)?,
            device: open.map(&spec::DEVICE)?,
            early: open.map(&spec::EARLY)?,
        })
    }

    /// The names of the maps, and how many entries each has room for.
    pub fn capacities(&self) -> [(&'static str, u32); 25] {
        let Self { v4, v6, service, service_stats, drop_stats, device, early, .. } = self;
        fn of<K: Pod + std::fmt::Debug, V: Pod>(map: &Map<K, V>) -> (&'static str, u32) {
            (map.name(), map.capacity())
        }
        fn flows<A: Address>(map: &Map<u32, FlowSet<A>>) -> (&'static str, u32)
        where
            FlowSet<A>: Pod,
        {
            (map.name(), map.capacity() * FlowSet::<A>::WAYS)
        }
        [
            of(&v4.frontend),
            of(&v4.slot),
            of(&v4.backend),
            of(&v4.range),
            of(&v4.service_net),
            of(&v4.affinity),
            flows(&v4.flow),
            of(&v4.peer),
            of(&v4.datagram),
            of(&v4.fragment),
            of(&v6.frontend),
            of(&v6.slot),
            of(&v6.backend),
            of(&v6.range),
            of(&v6.service_net),
            of(&v6.affinity),
            flows(&v6.flow),
            of(&v6.peer),
            of(&v6.datagram),
            of(&v6.fragment),
            of(service),
            of(service_stats),
            of(drop_stats),
            of(device),
            of(early),
        ]
    }

    /// How many entries the maps have room for: of two families, the smaller number.
    pub fn sizes(&self) -> Sizes {
        let Self { v4, v6, service, service_stats, device, .. } = self;
        let flows = v4.flow.capacity().min(v6.flow.capacity()) * spec::FLOWS_PER_SET;
        Sizes {
            max_frontends: v4.frontend.capacity().min(v6.frontend.capacity()),
            max_slots: v4.slot.capacity().min(v6.slot.capacity()),
            max_backends: v4.backend.capacity().min(v6.backend.capacity()),
            max_services: service.capacity().min(service_stats.capacity()),
            initial_flows: flows,
            max_flows: flows,
            max_devices: device.capacity(),
            max_ranges: v4.range.capacity().min(v6.range.capacity()),
            max_affinities: v4.affinity.capacity().min(v6.affinity.capacity()),
            max_datagrams: v4.datagram.capacity().min(v6.datagram.capacity()),
        }
    }
}

/// The tables of flows of a set, and what goes with them.
#[derive(Debug)]
pub(super) struct FlowTables {
    pub v4: Map<u32, FlowSet<Ipv4>>,
    pub v6: Map<u32, FlowSet<Ipv6>>,
    pub config: Map<u32, FlowConfig>,
    /// Layouts before 6 have none.
    pub hold: Option<Map<u32, FlowHold>>,
}

impl FlowTables {
    /// Opens those pinned in a folder.
    ///
    /// # Errors
    /// As [`MapSet::open`].
    pub(super) fn open(folder: &Path) -> Result<Self, MapSetError> {
        // None of them has values by CPU.
        let open = Opener { folder, cpus: 1 };
        let hold = match open.map(&spec::FLOW_HOLD) {
            Ok(hold) => Some(hold),
            Err(MapSetError::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            v4: open.map(&spec::FLOW_V4)?,
            v6: open.map(&spec::FLOW_V6)?,
            config: open.map(&spec::FLOW_CONFIG)?,
            hold,
        })
    }
}

struct Opener<'a> {
    folder: &'a Path,
    cpus: usize,
}

impl Opener<'_> {
    fn map<K: Pod + std::fmt::Debug, V: Pod>(&self, spec: &Spec<K, V>) -> Result<Map<K, V>, MapSetError> {
        let shape = &spec.shape;
        let (fd, info) =
            open_pin(self.folder, shape)?.ok_or_else(|| MapSetError::Missing { path: self.folder.join(shape.name) })?;
        check_layout(self.folder, shape, &info)?;
        let width = if shape.kind == MapKind::PerCpuArray { self.cpus } else { 1 };
        Ok(Map::new(RawMap::new(fd, info, width), shape.name, width))
    }
}

/// Opens a map's pin, if there is one.
pub(super) fn open_pin(folder: &Path, shape: &Shape) -> Result<Option<(OwnedFd, MapInfo)>, MapSetError> {
    let path = folder.join(shape.name);
    let fd = match sys::open_pin(&path) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(MapSetError::Open { path, source }),
    };
    match sys::map_info(fd.as_fd()) {
        Ok(info) => Ok(Some((fd, info))),
        Err(source) => Err(MapSetError::Open { path, source }),
    }
}

/// Whether a map is of the type and layout that it has to be. Its size may be any.
pub(super) fn check_layout(folder: &Path, shape: &Shape, info: &MapInfo) -> Result<(), MapSetError> {
    for (what, found, wanted) in [
        ("type", info.kind, shape.kind as u32),
        ("key size", info.key_size, shape.key_size),
        ("value size", info.value_size, shape.value_size),
        ("flags", info.flags, shape.flags),
    ] {
        if found != wanted {
            return Err(MapSetError::Mismatch { map: shape.name, path: folder.join(shape.name), what, found, wanted });
        }
    }
    Ok(())
}
