//! Where the lists and tables of a Service port lie in its stretch of slots.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proxy_common::maglev;
use proxy_common::maps::{Frontend, FrontendKind, RangeKey, SERVICE_NETS, ServiceNet};

use super::PlanFamily;
use crate::model::{DesiredFrontend, DesiredPort, List, Lists};

/// What is in the stretch of slots of a Service port: its lists, and behind them a table for each list that clients from
/// elsewhere choose from.
///
/// The slots of the lists come in the order of [`Lists`]: Local alone, both, Cluster alone. So each list is a range of slots,
/// and a list of either kind costs a packet no more than one look-up, however the two overlap. A list that only tables are
/// made of has no slots of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// How many slots there are for backends in one list alone and in both.
    local: u32,
    both: u32,
    cluster: u32,
    /// How long the tables of the Local and of the Cluster list are; 0 where there is none.
    tables: [u32; 2],
    /// It was made without the tables that it should have.
    lacks_tables: bool,
    /// The backend of each slot, by its index among all.
    slots: Vec<usize>,
}

impl Layout {
    /// For backends in the order of [`Lists`], each with its [`identity`](maglev::identity).
    pub(super) fn of(want: &DesiredPort, backends: &[(Lists, u64)], has_tables: bool) -> Self {
        let mut layout = Self::default();
        let members = |list| {
            let members = backends.iter().enumerate().filter(move |(_, (lists, _))| lists.contain(list));
            members.map(|(index, (_, identity))| (*identity, index))
        };
        for (length, list) in layout.tables.iter_mut().zip([List::Local, List::Cluster]) {
            if !want.frontends.values().any(|rule| is_outside(rule) && rule.outside == list) {
                continue;
            }
            match maglev::length(members(list).count()) {
                Some(wanted) if has_tables => *length = wanted,
                Some(_) => layout.lacks_tables = true,
                None => {}
            }
        }
        for (index, (lists, _)) in backends.iter().enumerate() {
            let has_slot = want
                .frontends
                .values()
                .any(|rule| lists.contain(rule.inside) || (lists.contain(rule.outside) && layout.table(rule) == 0));
            if !has_slot {
                continue;
            }
            layout.slots.push(index);
            match lists {
                Lists::Local => layout.local += 1,
                Lists::Both => layout.both += 1,
                Lists::Cluster => layout.cluster += 1,
            }
        }
        for (length, list) in layout.tables.into_iter().zip([List::Local, List::Cluster]) {
            if length == 0 {
                continue;
            }
            // The order is the same on every node; that of the lists is not.
            let mut members: Vec<(u64, usize)> = members(list).collect();
            members.sort_unstable();
            let mut turns: Vec<_> = members.iter().map(|(identity, _)| maglev::Turn::new(*identity)).collect();
            let mut table = vec![0; length as usize];
            maglev::fill(&mut turns, &mut table);
            let member = |slot: u32| members.get(slot as usize).map(|(_, index)| *index);
            layout.slots.extend(table.into_iter().filter_map(member));
        }
        layout
    }

    /// Length of the stretch.
    pub(super) fn length(&self) -> u32 {
        self.local + self.both + self.cluster + self.tables.iter().sum::<u32>()
    }

    /// The backend of each slot of the stretch, by its index.
    pub(super) fn slots(&self) -> &[usize] {
        &self.slots
    }

    /// Whether there is a table in it.
    pub(super) fn has_tables(&self) -> bool {
        self.tables != [0; 2]
    }

    /// Whether there should be a table in it, and is none.
    pub(super) fn lacks_tables(&self) -> bool {
        self.lacks_tables
    }

    /// First slot and length of a list, in a stretch that begins at `base`. An empty one begins nowhere.
    fn range(&self, list: List, base: u32) -> (u32, u32) {
        let (first, count) = match list {
            List::Local => (base, self.local + self.both),
            List::Cluster => (base + self.local, self.both + self.cluster),
        };
        if count == 0 { (0, 0) } else { (first, count) }
    }

    /// Length of the table that a frontend has for clients from elsewhere; 0 where it has none.
    fn table(&self, rule: &DesiredFrontend) -> u32 {
        let [local, cluster] = self.tables;
        match rule.outside {
            _ if !is_outside(rule) => 0,
            List::Local => local,
            List::Cluster => cluster,
        }
    }

    /// The map entry of a frontend.
    pub(super) fn frontend(&self, service: u32, base: u32, want: &DesiredPort, rule: &DesiredFrontend) -> Frontend {
        let (first, count) = self.range(rule.inside, base);
        let (outside_first, outside_count) = match self.table(rule) {
            0 => self.range(rule.outside, base),
            length => {
                let [before, _] = self.tables;
                let lists = base + self.local + self.both + self.cluster;
                (if rule.outside == List::Local { lists } else { lists + before }, length)
            }
        };
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
                | flag(rule.outside == List::Local, Frontend::OUTSIDE_LOCAL)
                | flag(self.table(rule) != 0, Frontend::TABLE),
            masquerade: rule.masquerade,
            zero: 0,
        }
    }
}

/// Whether clients from elsewhere are to choose from a table: where they can come by several nodes.
fn is_outside(rule: &DesiredFrontend) -> bool {
    rule.kind != FrontendKind::ClusterIp
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
