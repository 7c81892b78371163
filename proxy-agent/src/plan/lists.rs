//! Where the two lists of a Service port lie in its stretch of slots.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proxy_common::maps::{Frontend, RangeKey, SERVICE_NETS, ServiceNet};

use super::PlanFamily;
use crate::model::{DesiredFrontend, DesiredPort, List, Lists};

/// How many backends are in one list alone and in both.
///
/// Their slots come in the order of [`Lists`]: Local alone, both, Cluster alone. So each list is a range of slots,
/// and a list of either kind costs a packet no more than one look-up, however the two overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    local: u32,
    both: u32,
    cluster: u32,
}

impl Layout {
    pub(super) fn of(backends: impl Iterator<Item = Lists>) -> Self {
        let mut layout = Self::default();
        for lists in backends {
            match lists {
                Lists::Local => layout.local += 1,
                Lists::Both => layout.both += 1,
                Lists::Cluster => layout.cluster += 1,
            }
        }
        layout
    }

    /// Length of the stretch.
    pub(super) fn length(self) -> u32 {
        self.local + self.both + self.cluster
    }

    /// First slot and length of a list, in a stretch that begins at `base`. An empty one begins nowhere.
    fn range(self, list: List, base: u32) -> (u32, u32) {
        let (first, count) = match list {
            List::Local => (base, self.local + self.both),
            List::Cluster => (base + self.local, self.both + self.cluster),
        };
        if count == 0 { (0, 0) } else { (first, count) }
    }

    /// The map entry of a frontend.
    pub(super) fn frontend(self, service: u32, base: u32, want: &DesiredPort, rule: &DesiredFrontend) -> Frontend {
        let (first, count) = self.range(rule.inside, base);
        let (outside_first, outside_count) = self.range(rule.outside, base);
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        Frontend {
            service,
            first,
            count,
            outside_first,
            outside_count,
            affinity: want.affinity.map_or(0, std::num::NonZeroU32::get),
            kind: rule.kind as u8,
            flags: flag(want.has_endpoints, Frontend::DROP)
                | flag(rule.guarded, Frontend::RANGES)
                | flag(rule.inside == List::Local, Frontend::LOCAL)
                | flag(rule.outside == List::Local, Frontend::OUTSIDE_LOCAL),
            masquerade: rule.masquerade,
            zero: 0,
        }
    }
}

/// Whether any frontend leads to a backend that is in these lists. Nothing is written of others: a stretch of slots
/// is in use only as far as frontends lead into it.
pub(super) fn is_used(want: &DesiredPort, lists: Lists) -> bool {
    want.frontends.values().any(|frontend| lists.contain(frontend.inside) || lists.contain(frontend.outside))
}

/// The map keys of ranges, as far as they are of this family.
pub(super) fn range_keys<A: PlanFamily>(owner: u32, ranges: &BTreeSet<IpNet>) -> BTreeSet<RangeKey<A>> {
    let keys = ranges.iter().filter_map(|range| {
        let prefix = RangeKey::<A>::OWNER_BITS + u32::from(range.prefix_len());
        Some(RangeKey { prefix, owner, addr: A::from_ip(range.network())? })
    });
    keys.collect()
}

/// The entries of the ranges that ClusterIPs are from, as far as they are of this family; the rest are unused.
pub(super) fn service_nets<A: PlanFamily>(nets: &BTreeMap<IpNet, bool>) -> [ServiceNet<A>; SERVICE_NETS as usize] {
    let mut entries = [ServiceNet::default(); SERVICE_NETS as usize];
    // Those that are known in full first: the first one that fits decides.
    let mut of_family: Vec<_> = nets.iter().filter(|(net, _)| A::from_ip(net.addr()).is_some()).collect();
    of_family.sort_by_key(|(_, is_complete)| !**is_complete);
    for (entry, (net, is_complete)) in entries.iter_mut().zip(of_family) {
        if let (Some(addr), Some(mask)) = (A::from_ip(net.network()), A::from_ip(net.netmask())) {
            let complete = if *is_complete { ServiceNet::<A>::COMPLETE } else { 0 };
            *entry = ServiceNet { addr, mask, flags: ServiceNet::<A>::USED | complete, ..ServiceNet::default() };
        }
    }
    entries
}
