//! The operations that turn what the maps hold into what they should hold.
//!
//! Pure, like the model. The order of a plan is what makes it safe, and has two parts. First everything new is
//! built: names, backends, slots and ranges where nothing leads to them yet, then the frontends are switched over.
//! Then what is no longer wanted is taken away: frontends, after them the backends and ranges that only they led to,
//! after those the names. Nothing that is freed, and no range of slots that is left, is used again within the same plan:
//! what a packet may still be reading stays as it is until the next one.

mod build;
mod change;
mod family;
mod lists;
mod name;
mod op;
mod planner;
mod realized;
mod slots;
mod tables;

pub use change::{Change, ChangeKind, Full, WithoutTable};
pub use family::PlanFamily;
pub use op::{FamilyOp, Op};
pub use planner::{plan, plan_changes};
pub use realized::Realized;
pub use tables::FamilyTables;

/// How many entries the maps have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Of `service`, which both families share. Id 0 is never used.
    pub services: u32,
    /// Of `frontend_v4` and of `frontend_v6`.
    pub frontends: u32,
    /// Of `backend_v4` and of `backend_v6`. Id 0 is never used.
    pub backends: u32,
    /// Of `slot_v4` and of `slot_v6`.
    pub slots: u32,
    /// Of `range_v4` and of `range_v6`.
    pub ranges: u32,
}

/// What to do, and what to say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do, in this order.
    pub ops: Vec<Op>,
    /// One for each Service port that is added, changed or removed.
    pub changes: Vec<Change>,
    /// The Service ports that there is no room for.
    pub full: Vec<Full>,
    /// Those that are served, but without the tables that there is no room for.
    pub without_table: Vec<WithoutTable>,
}

impl Plan {
    /// Whether there was room for everything.
    pub fn has_room(&self) -> bool {
        self.full.is_empty() && self.without_table.is_empty()
    }

    /// Whether planning once more, after this plan was applied, may find room that this plan has freed.
    pub fn may_make_room(&self) -> bool {
        !self.has_room() && !self.ops.is_empty()
    }
}

#[cfg(test)]
mod tests;
