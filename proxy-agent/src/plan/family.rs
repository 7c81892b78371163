//! All that differs between the families in a plan.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::IpAddr;

use proxy_common::addr::{Address, Ipv4, Ipv6};

use super::{FamilyOp, FamilyTables, Op, Realized};
use crate::model::Family;

/// An address family that can be planned for.
pub trait PlanFamily: Address + Ord + Hash + Debug {
    /// Its name.
    const FAMILY: Family;
    /// Name of its map of frontends.
    const FRONTEND_MAP: &'static str;
    /// Name of its map of backends.
    const BACKEND_MAP: &'static str;
    /// Name of its map of slots.
    const SLOT_MAP: &'static str;
    /// Name of its trie of ranges.
    const RANGE_MAP: &'static str;

    /// The address, if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;
    /// The address.
    fn to_ip(self) -> IpAddr;
    /// An operation on this family's maps.
    fn op(op: FamilyOp<Self>) -> Op;
    /// This family's part of what the maps hold.
    fn tables(realized: &Realized) -> &FamilyTables<Self>;
}

impl PlanFamily for Ipv4 {
    const FAMILY: Family = Family::V4;
    const FRONTEND_MAP: &'static str = "frontend_v4";
    const BACKEND_MAP: &'static str = "backend_v4";
    const SLOT_MAP: &'static str = "slot_v4";
    const RANGE_MAP: &'static str = "range_v4";

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(Self::new(address.octets())),
            IpAddr::V6(_) => None,
        }
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::from(self.octets)
    }

    fn op(op: FamilyOp<Self>) -> Op {
        Op::V4(op)
    }

    fn tables(realized: &Realized) -> &FamilyTables<Self> {
        realized.v4()
    }
}

impl PlanFamily for Ipv6 {
    const FAMILY: Family = Family::V6;
    const FRONTEND_MAP: &'static str = "frontend_v6";
    const BACKEND_MAP: &'static str = "backend_v6";
    const SLOT_MAP: &'static str = "slot_v6";
    const RANGE_MAP: &'static str = "range_v6";

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(Self::new(address.octets())),
        }
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::from(self.octets)
    }

    fn op(op: FamilyOp<Self>) -> Op {
        Op::V6(op)
    }

    fn tables(realized: &Realized) -> &FamilyTables<Self> {
        realized.v6()
    }
}
