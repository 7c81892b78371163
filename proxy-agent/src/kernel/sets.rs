//! Sets of maps: which one the programs use, and how another takes its place.
//!
//! A set is a folder of pinned maps; the link `current` names the set that programs are loaded with. The size and the
//! layout of a map are fixed for its life. So where one does not fit any more, or is to grow, a set is made beside: it
//! shares the maps that fit (a map may be pinned twice, so flows go on in the same table), gets new ones for the others,
//! and in those that only were too small all that the old ones held. Then `current` is switched by one rename, and
//! after it the links, one by one, to programs of the new set. Programs of both sets run for a while: what they share is
//! one, and what is not is equal until the agent writes the next change, after the last link was switched. What programs
//! of the old set wrote meanwhile into maps of their own is carried over once more before that set goes.
//!
//! Tables of flows of another size are filled by `proxy_common::flows::carry`, since where a flow lies follows from the
//! size: first while all programs use the former ones; then again, while no new flow begins ([`FlowMove::hold`]), before and
//! after the links are switched. So a flow that is there is known to the programs of both sets, and one that begins
//! is stored in the new table, when no program looks into the old one any more.
//!
//! Numbers of sets go up. A set with a higher number than the current one was never whole; those with lower numbers may
//! still be in use. So an agent that is killed at any moment leaves what the next one goes on from.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use proxy_common::addr::Address;
use proxy_common::maps::{Backend, LAYOUT};

use super::error::{LoadError, MapSetError, PinError};
use super::flows::FlowMove;
use super::map::Map;
use super::maps::{FlowTables, check_layout, open_pin};
use super::pins::{self, NamedSet, PinPath};
use super::raw::RawMap;
use super::spec::{self, FLOWS_PER_SET, MapKind, SHAPES, Shape, Sizes, Spec};
use super::sys::{self, MapInfo};

/// The set that programs are to be loaded with.
#[derive(Debug)]
pub(super) struct Set {
    folder: PathBuf,
    number: u32,
    /// How large each map is to be, in the order of [`SHAPES`].
    sizes: Vec<u32>,
    /// Maps whose entries the new ones are to get.
    outgrown: Vec<(&'static Shape, OwnedFd, MapInfo)>,
    /// Maps that are made anew, empty, though there were some.
    emptied: Vec<&'static str>,
    /// The set whose flows are to be carried over.
    flows_from: Option<PathBuf>,
    /// Tables of flows are to have another size, but those of an earlier set may still be in use.
    puts_off_flows: bool,
    /// Whether `current` does not name it yet.
    is_new: bool,
}

/// What was found of one map in the current set.
enum Found {
    Fits(OwnedFd, u32),
    TooSmall(OwnedFd, MapInfo),
    /// It goes with the tables of flows, which are to have another size.
    Moves,
    Missing,
    /// Of another type, or of a layout that means something else.
    Other,
}

impl Set {
    /// Finds the set for maps that have at least these sizes: the current one, if all its maps fit; otherwise a new one,
    /// that shares those that do. The pin path is to be locked.
    ///
    /// # Errors
    /// When a pin cannot be read or made.
    pub(super) fn choose(pins: &PinPath, wanted: &Sizes) -> Result<Self, LoadError> {
        let current = pins.current_set()?;
        let number = current.as_ref().map_or(0, |current| current.number);
        for unfinished in pins.sets()?.iter().filter(|set| set.number > number) {
            pins.remove_set(unfinished)?;
        }
        let Some(current) = current else {
            let sizes = SHAPES.iter().map(|shape| (shape.size.of)(wanted)).collect();
            return Ok(Self { sizes, ..Self::empty(pins.make_set(LAYOUT, 1)?, 1) });
        };
        let mut found = Vec::new();
        for shape in &SHAPES {
            let is_same = (shape.since..=LAYOUT).contains(&current.layout);
            found.push(if is_same { look(&current.folder, shape, wanted)? } else { Found::Other });
        }
        forget_slots(&mut found);
        // One after the other: the programs that are attached may not yet use the tables of the current set.
        let mut is_unfinished = false;
        for former in pins.sets()?.iter().filter(|set| set.number < number) {
            is_unfinished |= has_own_flows(former, &current)?;
        }
        let moved = move_flows(&found, current.layout, wanted);
        let puts_off_flows = is_unfinished && moved.is_some();
        let keeping = wanted.keeping_flows();
        let wanted = match &moved {
            _ if is_unfinished => &keeping,
            Some(moved) => {
                mark_flows(&mut found);
                moved
            }
            None => wanted,
        };
        let sizes = SHAPES.iter().zip(&found).map(|(shape, found)| found.size(shape, wanted)).collect();
        let is_whole = found.iter().all(|found| matches!(found, Found::Fits(..) | Found::Missing));
        if current.layout == LAYOUT && is_whole {
            return Ok(Self { sizes, is_new: false, puts_off_flows, ..Self::empty(current.folder, number) });
        }
        let mut set = Self { sizes, puts_off_flows, ..Self::empty(pins.make_set(LAYOUT, number + 1)?, number + 1) };
        if found.iter().any(|found| matches!(found, Found::Moves)) {
            set.flows_from = Some(current.folder);
        }
        set.share(found)
    }

    fn empty(folder: PathBuf, number: u32) -> Self {
        Self {
            folder,
            number,
            sizes: Vec::new(),
            outgrown: Vec::new(),
            emptied: Vec::new(),
            flows_from: None,
            puts_off_flows: false,
            is_new: true,
        }
    }

    /// Pins what fits in this set, too, and notes what is to be carried over.
    fn share(mut self, found: Vec<Found>) -> Result<Self, LoadError> {
        for (shape, found) in SHAPES.iter().zip(found) {
            match found {
                Found::Fits(map, _) => {
                    let path = self.folder.join(shape.name);
                    sys::pin(map.as_fd(), &path).map_err(|source| MapSetError::Pin { path, source })?;
                }
                Found::TooSmall(map, info) => self.outgrown.push((shape, map, info)),
                Found::Other => self.emptied.push(shape.name),
                Found::Missing | Found::Moves => {}
            }
        }
        if !self.emptied.is_empty() {
            tracing::info!("maps that this agent's layout ({LAYOUT}) has differently: {}", self.emptied.join(", "));
        }
        Ok(self)
    }

    /// Where its maps are pinned, or are to be.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether maps were made anew, and are to be filled before the set takes the place of the current one.
    pub(super) fn needs_filling(&self) -> bool {
        self.is_new && !self.emptied.is_empty()
    }

    /// Each map with its size.
    pub(super) fn maps(&self) -> impl Iterator<Item = (&'static Shape, u32)> {
        SHAPES.iter().zip(self.sizes.iter().copied())
    }

    /// The folder of the set whose flows are to be carried over, if that is to be done.
    pub(super) fn flows_from(&self) -> Option<&Path> {
        self.flows_from.as_deref()
    }

    /// Whether tables of flows are to get another size once the programs before are replaced.
    pub(super) fn puts_off_flows(&self) -> bool {
        self.puts_off_flows
    }

    /// Carries flows over into new tables, which are there by now. False if they do not fit into them.
    ///
    /// # Errors
    /// When a table cannot be opened or mapped into memory.
    pub(super) fn carry_flows(&self) -> Result<bool, LoadError> {
        let Some(former) = &self.flows_from else { return Ok(true) };
        let (from, to) = (FlowTables::open(former)?, FlowTables::open(&self.folder)?);
        let [before, now] = [&from, &to].map(|tables| tables.v4.capacity() * FLOWS_PER_SET);
        let Some(way) = FlowMove::new(&from, to)? else { return Ok(true) };
        let carried =
            way.carry(0).map_err(|source| MapSetError::Carry { map: "flow_v4", path: self.folder.clone(), source })?;
        if carried.lost > 0 {
            tracing::warn!(
                "{} established flows would find no room in tables for {now} connections: they keep room for {before}",
                carried.lost
            );
            return Ok(false);
        }
        tracing::info!("tables of flows: room for {now} connections instead of {before}; {} kept", carried.stored);
        Ok(true)
    }

    /// Gives new maps, which are there by now, the entries of those that they take the place of, and has `current`
    /// name this set, unless it needs filling.
    ///
    /// # Errors
    /// When an entry cannot be copied or the link cannot be made; the set is then not current.
    pub(super) fn take_over(&mut self, pins: &PinPath) -> Result<(), LoadError> {
        let path = &self.folder;
        let failed = |map| move |source| MapSetError::Carry { map, path: path.clone(), source };
        for (shape, old, info) in &self.outgrown {
            let entries = carry(&self.folder, shape, old, info).map_err(failed(shape.name))?;
            let size = self.maps().find(|(map, _)| map.name == shape.name).map_or(0, |(_, size)| size);
            let before = info.max_entries;
            tracing::info!("map {}: room for {size} entries instead of {before}; {entries} kept", shape.name);
        }
        for name in &self.emptied {
            let begun = match *name {
                "backend_v4" => begin_generations(&self.folder, &spec::BACKEND_V4, self.number),
                "backend_v6" => begin_generations(&self.folder, &spec::BACKEND_V6, self.number),
                _ => Ok(()),
            };
            begun.map_err(failed(name))?;
        }
        if self.needs_filling() { Ok(()) } else { Ok(self.make_current(pins)?) }
    }

    /// Has `current` name this set.
    pub(super) fn make_current(&mut self, pins: &PinPath) -> Result<(), PinError> {
        if self.is_new {
            pins.set_current(&self.folder)?;
            self.is_new = false;
        }
        Ok(())
    }
}

impl Found {
    /// The size that a map keeps or is to get.
    fn size(&self, shape: &Shape, wanted: &Sizes) -> u32 {
        match self {
            Self::Fits(_, size) => *size,
            Self::TooSmall(..) | Self::Moves | Self::Missing | Self::Other => (shape.size.of)(wanted),
        }
    }
}

/// The tables of flows of sets before the current one, which programs may still use, where the current one has others.
///
/// # Errors
/// When a map cannot be opened or mapped into memory.
pub fn flow_moves(pins: &PinPath) -> Result<Vec<FlowMove>, LoadError> {
    let Some(current) = pins.current_set()? else { return Ok(Vec::new()) };
    let mut moves = Vec::new();
    for former in pins.sets()?.iter().filter(|set| set.number < current.number) {
        if has_own_flows(former, &current)? {
            moves.extend(FlowMove::new(&FlowTables::open(&former.folder)?, FlowTables::open(&current.folder)?)?);
        }
    }
    Ok(moves)
}

/// Forgets the tables of flows of sets before the current one, which no program uses any more.
///
/// # Errors
/// When the filesystem refuses.
pub fn forget_flows(pins: &PinPath) -> Result<(), LoadError> {
    let Some(current) = pins.current_set()? else { return Ok(()) };
    for former in pins.sets()?.iter().filter(|set| set.number < current.number) {
        for name in FLOW_MAPS {
            pins::remove(&former.folder.join(name))?;
        }
    }
    Ok(())
}

/// Has new flows wait on, if an agent has had them wait and did not come to let them go: programs of two sets may run.
///
/// # Errors
/// When a map cannot be read or written.
pub fn hold_flows_on(pins: &PinPath) -> Result<(), LoadError> {
    let Some(current) = pins.current_set()? else { return Ok(()) };
    if current.layout == LAYOUT && FlowTables::open(&current.folder)?.is_held()? {
        flow_moves(pins)?.iter().try_for_each(FlowMove::hold)?;
    }
    Ok(())
}

/// Whether a set has another table of flows than the current one.
fn has_own_flows(former: &NamedSet, current: &NamedSet) -> Result<bool, LoadError> {
    let shape = &spec::FLOW_V4.shape;
    if !(shape.since..=LAYOUT).contains(&former.layout) {
        return Ok(false);
    }
    let (Some((_, old)), Some((_, new))) = (open_pin(&former.folder, shape)?, open_pin(&current.folder, shape)?) else {
        return Ok(false);
    };
    Ok(old.id != new.id && check_layout(&former.folder, shape, &old).is_ok())
}

/// Carries over what programs of the sets before the current one have remembered of packets since that was last done; but
/// for flows: see [`flow_moves`].
///
/// # Errors
/// When a map cannot be read or written.
pub fn catch_up(pins: &PinPath) -> Result<(), LoadError> {
    let Some(current) = pins.current_set()? else { return Ok(()) };
    for former in pins.sets()?.iter().filter(|set| set.number < current.number) {
        for shape in SHAPES.iter().filter(|shape| shape.kind == MapKind::LruHash) {
            if !(shape.since..=LAYOUT).contains(&former.layout) {
                continue;
            }
            let (Some((old, old_info)), Some((_, info))) =
                (open_pin(&former.folder, shape)?, open_pin(&current.folder, shape)?)
            else {
                continue;
            };
            if old_info.id != info.id && check_layout(&former.folder, shape, &old_info).is_ok() {
                carry(&current.folder, shape, &old, &old_info).map_err(|source| MapSetError::Carry {
                    map: shape.name,
                    path: current.folder.clone(),
                    source,
                })?;
            }
        }
    }
    Ok(())
}

/// Removes the sets before the current one, whose programs have all been replaced, after a last [`catch_up`].
///
/// # Errors
/// When a map cannot be read or written, or the filesystem refuses.
pub fn retire_former(pins: &PinPath) -> Result<(), LoadError> {
    catch_up(pins)?;
    let Some(current) = pins.current_set()? else { return Ok(()) };
    for former in pins.sets()?.iter().filter(|set| set.number < current.number) {
        pins.remove_set(former)?;
    }
    Ok(())
}

fn look(folder: &Path, shape: &'static Shape, wanted: &Sizes) -> Result<Found, MapSetError> {
    let Some((map, info)) = open_pin(folder, shape)? else { return Ok(Found::Missing) };
    Ok(match check_layout(folder, shape, &info) {
        Err(error) => {
            tracing::warn!("{error}");
            Found::Other
        }
        // A map never shrinks: what is in it may need the room.
        Ok(()) if shape.size.is_table || info.max_entries >= (shape.size.of)(wanted) => {
            Found::Fits(map, info.max_entries)
        }
        Ok(()) => Found::TooSmall(map, info),
    })
}

/// The maps that go together where tables of flows get another size.
const FLOW_MAPS: [&str; 3] = ["flow_v4", "flow_v6", "flow_config"];

/// The sizes, where tables of flows are to have another one, and programs with the current ones know how to wait.
fn move_flows(found: &[Found], layout: u32, wanted: &Sizes) -> Option<Sizes> {
    let tables = FLOW_MAPS.map(|name| at(name).and_then(|index| found.get(index)));
    let [Some(Found::Fits(_, v4)), Some(Found::Fits(_, v6)), Some(Found::Fits(..))] = tables else { return None };
    let sets = if v4 == v6 { wanted.flow_sets_instead_of(*v4) } else { Some(*v4) };
    let sets = sets.filter(|_| layout >= spec::FLOW_HOLD.shape.since)?;
    Some(Sizes { initial_flows: sets.saturating_mul(FLOWS_PER_SET), ..*wanted })
}

/// Has tables of flows be made anew.
fn mark_flows(found: &mut [Found]) {
    for index in FLOW_MAPS.into_iter().filter_map(at) {
        if let Some(found) = found.get_mut(index) {
            *found = Found::Moves;
        }
    }
}

fn at(name: &str) -> Option<usize> {
    SHAPES.iter().position(|shape| shape.name == name)
}

/// Where no frontends are known, all slots seem to be free, but programs of the old set use some: they are not shared.
fn forget_slots(found: &mut [Found]) {
    for (frontend, slot) in [("frontend_v4", "slot_v4"), ("frontend_v6", "slot_v6")] {
        let (Some(frontend), Some(slot)) = (at(frontend), at(slot)) else { continue };
        if matches!(found.get(frontend), Some(Found::Other))
            && let Some(slot) = found.get_mut(slot)
        {
            *slot = Found::Other;
        }
    }
}

/// Copies the entries that are not there to the map of the same name in a folder. Returns how many.
fn carry(folder: &Path, shape: &Shape, old: &OwnedFd, old_info: &MapInfo) -> io::Result<usize> {
    let new = sys::open_pin(&folder.join(shape.name))?;
    let new_info = sys::map_info(new.as_fd())?;
    let width = if shape.kind == MapKind::PerCpuArray { aya::util::nr_cpus().map_err(|(_, error)| error)? } else { 1 };
    let old = RawMap::new(old.try_clone()?, *old_info, width);
    let new = RawMap::new(new, new_info, width);
    let is_array = matches!(shape.kind, MapKind::Array | MapKind::PerCpuArray);
    let mut entries = 0;
    let mut result = Ok(());
    old.for_each(usize::MAX, |key, value| {
        // A new array is all zero, and has every entry.
        if result.is_ok() && !(is_array && value.iter().all(|byte| *byte == 0)) {
            let written = if is_array { new.set(key, value).map(|()| true) } else { new.insert(key, value) };
            result = written.map(|is_written| entries += usize::from(is_written));
        }
    })?;
    result.map(|()| entries)
}

/// Has no backend of a new map be taken for one that flows know from before, by its number and generation.
fn begin_generations<A: Address>(folder: &Path, spec: &Spec<u32, Backend<A>>, number: u32) -> io::Result<()>
where
    Backend<A>: Pod,
{
    let map = sys::open_pin(&folder.join(spec.shape.name))?;
    let info = sys::map_info(map.as_fd())?;
    let map = Map::<u32, Backend<A>>::new(RawMap::new(map, info, 1), spec.shape.name, 1);
    let backend = Backend { generation: number << 16, ..Backend::default() };
    (0..info.max_entries).try_for_each(|id| map.set(&id, &backend)).map_err(io::Error::other)
}
