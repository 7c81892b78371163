//! The memory of a table: where it lies, and how several CPUs read and write it at once.
//!
//! This is where the unsafe code of this crate is, but for plain bytes. Everything in a table is read and written by words that a CPU
//! reads and writes whole; what belongs together is kept together by the sequence numbers of [`super`].
//!
//! On the host these are the atomic operations of `core`. The BPF target has none: there, plain words are volatile,
//! compare-and-exchange is the kernel's instruction (5.12 and later), which orders all that comes before and after it
//! (`Documentation/bpf/standardization/instruction-set.rst`, `Documentation/memory-barriers.txt`), and so a fence is an
//! exchange of a word of the own stack. x86 needs no fence: it orders loads among themselves and stores among themselves.

use core::marker::PhantomData;
use core::mem::offset_of;
use core::ptr::NonNull;

use super::{Alias, Insertion, NewFlow, Place, Ports, alias, insert, remove, room, search, untagged_port};
use crate::addr::{Address, Ipv4, Ipv6};
use crate::maps::{Flow, FlowConfig, FlowEvent, FlowKey, FlowSet, FlowSide, FlowWay};

/// Where a table's sets lie.
pub trait FlowMemory<A: Shared>: Sized {
    /// One of the sets. `None` beyond the last.
    fn set(&self, index: u32) -> Option<SetRef<'_, A>>;

    /// What programs and agent have agreed upon.
    fn config(&self) -> &FlowConfig;

    /// Counts what happened in the table.
    fn count(&self, event: FlowEvent);

    /// Looks for the flow that has these addresses on this side: its place in the upper half of the number, its sequence in
    /// the lower one. No place is 0: then there is none, and the lower half tells whether any entry is alike.
    ///
    /// This and those that follow may be made functions of their own, which the verifier goes through once and not for
    /// each packet that may come to them: so they take and answer what such functions can.
    #[inline(always)]
    fn search(&self, key: &FlowKey<A>, side: FlowSide) -> u64 {
        search(self, key, side)
    }

    /// Which way of this set or of those that follow is to be taken for a new entry: 8 × its distance, and its number. 0 if
    /// nobody makes way.
    #[inline(always)]
    fn room(&self, home: u32, now: u32) -> u32 {
        room(self, home, now)
    }

    /// Removes a flow with its aliases. False if it has changed since it was found, with this sequence and this word.
    #[inline(always)]
    fn remove(&self, place: Place, sequence: u32, word: FlowWay) -> bool {
        remove(self, place, sequence, word)
    }

    /// Stores an alias, which leads to a flow's place, if no other flow has these addresses.
    #[inline(always)]
    fn alias(&self, key: &FlowKey<A>, side: FlowSide, place: Place, now: u32) -> Alias {
        alias(self, key, side, place, now)
    }

    /// Puts into `key` the first of some hundred ports of which no alias has the tag. False if there is none: then it is the
    /// last of them.
    #[inline(always)]
    fn untagged_port(&self, key: &mut FlowKey<A>, ports: &mut Ports) -> bool {
        untagged_port(self, key, ports)
    }

    /// Stores a flow, but not its alias: see [`open`](super::open).
    #[inline(always)]
    fn insert(&self, new: &mut NewFlow<A>, ended: Option<u32>, random: u32) -> Insertion {
        insert(self, new, ended, random)
    }
}

/// One set of a table, shared with all CPUs. Ways count from 1 to [`FlowSet::WAYS`].
#[derive(Clone, Copy)]
pub struct SetRef<'a, A: Shared> {
    set: NonNull<FlowSet<A>>,
    life: PhantomData<&'a FlowSet<A>>,
}

/// The field of a flow of type `T` that lies at this offset.
pub(super) struct Field<T> {
    offset: usize,
    kind: PhantomData<fn(T)>,
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Field<T> {}

impl<T> Field<T> {
    /// At an offset from a flow's beginning, of a field that is there.
    pub const fn at(offset: usize) -> Self {
        Self { offset, kind: PhantomData }
    }

    /// The offset; a flow is far smaller than what it could tell.
    pub const fn offset(&self) -> u32 {
        self.offset as u32
    }
}

/// The fields of a flow.
pub(super) struct Fields<A>(PhantomData<A>);

impl<A: Shared> Fields<A> {
    pub const CLIENT: Field<A> = Field::at(offset_of!(Flow<A>, client));
    pub const FRONTEND: Field<A> = Field::at(offset_of!(Flow<A>, frontend));
    pub const BACKEND: Field<A> = Field::at(offset_of!(Flow<A>, backend));
    /// The client's port and the frontend's.
    pub const OUTER_PORTS: Field<u32> = Field::at(offset_of!(Flow<A>, client_port));
    /// The stack's port and the backend's.
    pub const INNER_PORTS: Field<u32> = Field::at(offset_of!(Flow<A>, stack_port));
    pub const SEQUENCE: Field<u32> = Field::at(offset_of!(Flow<A>, sequence));
    pub const SERVICE: Field<u32> = Field::at(offset_of!(Flow<A>, service));
    pub const BACKEND_ID: Field<u32> = Field::at(offset_of!(Flow<A>, backend_id));
    pub const GENERATION: Field<u32> = Field::at(offset_of!(Flow<A>, generation));
    pub const MASQUERADE: Field<A> = Field::at(offset_of!(Flow<A>, masquerade));
    /// The masquerade port, the flags, and a zero.
    pub const MASQUERADE_PORT: Field<u32> = Field::at(offset_of!(Flow<A>, masquerade_port));
    pub const STACK_ALIAS: Field<u32> = Field::at(offset_of!(Flow<A>, stack_alias));
    pub const MASQUERADE_ALIAS: Field<u32> = Field::at(offset_of!(Flow<A>, masquerade_alias));
    pub const BEGAN: Field<u32> = Field::at(offset_of!(Flow<A>, began));
}

impl<'a, A: Shared> SetRef<'a, A> {
    /// A set in memory.
    ///
    /// # Safety
    /// The set stays where it is for all of `'a`, and is read and written by nothing but this module, or by words in
    /// the same way, or by the kernel's look-up and update of an element.
    #[inline(always)]
    pub const unsafe fn new(set: NonNull<FlowSet<A>>) -> Self {
        Self { set, life: PhantomData }
    }

    /// A word of the header, at an offset that is in it.
    #[inline(always)]
    fn word<T>(self, offset: usize) -> *mut T {
        // SAFETY: the callers pass offsets of fields of the set.
        unsafe { self.set.as_ptr().byte_add(offset).cast() }
    }

    /// The word of a way.
    #[inline(always)]
    pub(super) fn way(self, way: u32) -> FlowWay {
        // SAFETY: the word lies in the set, and is aligned.
        FlowWay::from_word(unsafe { u64::load(self.word(way_offset(way))) })
    }

    /// The half of a way's word that has tag, kind and state.
    #[inline(always)]
    pub(super) fn label(self, way: u32) -> u32 {
        if cfg!(target_arch = "bpf") {
            let tag = way_offset(way) + offset_of!(FlowWay, tag);
            // SAFETY: as in `way`. Half a word is read at once, too.
            unsafe { u32::load(self.word(tag)) }
        } else {
            // The host's atomic operations are all of one size in one place.
            (self.way(way).to_word() >> 32) as u32
        }
    }

    /// Replaces the word of a way, if it is what it was.
    #[inline(always)]
    pub(super) fn exchange_way(self, way: u32, old: FlowWay, new: FlowWay) -> bool {
        // SAFETY: as in `way`.
        unsafe { u64::exchange(self.word(way_offset(way)), old.to_word(), new.to_word()) }
    }

    /// The set's own word.
    #[inline(always)]
    pub(super) fn head(self) -> u64 {
        // SAFETY: as in `way`.
        unsafe { u64::load(self.word(offset_of!(FlowSet<A>, lock))) }
    }

    /// Replaces the set's own word, if it is what it was.
    #[inline(always)]
    pub(super) fn exchange_head(self, old: u64, new: u64) -> bool {
        // SAFETY: as in `way`.
        unsafe { u64::exchange(self.word(offset_of!(FlowSet<A>, lock)), old, new) }
    }

    /// Overwrites the set's own word, after all that was written before.
    #[inline(always)]
    pub(super) fn publish_head(self, word: u64) {
        // SAFETY: as in `way`.
        unsafe { u64::publish(self.word(offset_of!(FlowSet<A>, lock)), word) }
    }

    #[inline(always)]
    fn field<T>(self, way: u32, field: Field<T>) -> *mut T {
        // The header takes as much room as a flow, so flow 1 lies behind it. The mask is for the verifier.
        let flow = (way & 7) as usize * size_of::<Flow<A>>();
        self.word(flow + field.offset)
    }

    /// A field of a way's flow.
    #[inline(always)]
    pub(super) fn load<T: Word>(self, way: u32, field: Field<T>) -> T {
        // SAFETY: the field lies in the set, and is aligned; any bytes are a value.
        unsafe { T::load(self.field(way, field)) }
    }

    /// Overwrites a field of a way's flow.
    #[inline(always)]
    pub(super) fn store<T: Word>(self, way: u32, field: Field<T>, value: T) {
        // SAFETY: as in `load`.
        unsafe { T::store(self.field(way, field), value) }
    }

    /// Replaces a field of a way's flow, if it is what it was.
    #[inline(always)]
    pub(super) fn exchange(self, way: u32, field: Field<u32>, old: u32, new: u32) -> bool {
        // SAFETY: as in `load`.
        unsafe { u32::exchange(self.field(way, field), old, new) }
    }

    /// Overwrites a field of a way's flow, after all that was written before.
    #[inline(always)]
    pub(super) fn publish(self, way: u32, field: Field<u32>, value: u32) {
        // SAFETY: as in `load`.
        unsafe { u32::publish(self.field(way, field), value) }
    }
}

/// Offset of a way's word.
#[inline(always)]
const fn way_offset(way: u32) -> usize {
    (way.wrapping_sub(1) & 7) as usize * size_of::<FlowWay>()
}

/// What a CPU reads and writes whole, or in whole halves.
pub trait Word: Copy {
    /// Reads it.
    ///
    /// # Safety
    /// `place` is valid and aligned, and others write it in the same way only.
    unsafe fn load(place: *mut Self) -> Self;

    /// Writes it.
    ///
    /// # Safety
    /// As for `load`.
    unsafe fn store(place: *mut Self, value: Self);
}

/// An address that a table can hold.
pub trait Shared: Address + Word {}
impl<A: Address + Word> Shared for A {}

/// Words that can be exchanged.
trait Exchange: Word {
    /// # Safety
    /// As for [`Word::load`].
    unsafe fn exchange(place: *mut Self, old: Self, new: Self) -> bool;

    /// # Safety
    /// As for [`Word::load`].
    unsafe fn publish(place: *mut Self, value: Self);
}

/// Implements the words of one type.
macro_rules! words {
    ($word:ty, $atomic:ty) => {
        #[cfg(not(target_arch = "bpf"))]
        impl Word for $word {
            #[inline(always)]
            unsafe fn load(place: *mut Self) -> Self {
                // SAFETY: the caller's.
                unsafe { <$atomic>::from_ptr(place) }.load(core::sync::atomic::Ordering::Relaxed)
            }

            #[inline(always)]
            unsafe fn store(place: *mut Self, value: Self) {
                // SAFETY: the caller's.
                unsafe { <$atomic>::from_ptr(place) }.store(value, core::sync::atomic::Ordering::Relaxed);
            }
        }

        #[cfg(not(target_arch = "bpf"))]
        impl Exchange for $word {
            #[inline(always)]
            unsafe fn exchange(place: *mut Self, old: Self, new: Self) -> bool {
                use core::sync::atomic::Ordering::SeqCst;
                // SAFETY: the caller's.
                let done = unsafe { <$atomic>::from_ptr(place) }.compare_exchange(old, new, SeqCst, SeqCst).is_ok();
                // As the kernel's instruction does, it orders what is no atomic operation by itself as well.
                core::sync::atomic::fence(SeqCst);
                done
            }

            #[inline(always)]
            unsafe fn publish(place: *mut Self, value: Self) {
                // SAFETY: the caller's.
                unsafe { <$atomic>::from_ptr(place) }.store(value, core::sync::atomic::Ordering::Release);
            }
        }

        #[cfg(target_arch = "bpf")]
        impl Word for $word {
            #[inline(always)]
            unsafe fn load(place: *mut Self) -> Self {
                // SAFETY: the caller's.
                unsafe { place.read_volatile() }
            }

            #[inline(always)]
            unsafe fn store(place: *mut Self, value: Self) {
                // SAFETY: the caller's.
                unsafe { place.write_volatile(value) }
            }
        }

        #[cfg(target_arch = "bpf")]
        impl Exchange for $word {
            #[inline(always)]
            unsafe fn exchange(place: *mut Self, old: Self, new: Self) -> bool {
                use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
                // SAFETY: the caller's.
                let (was, _) = unsafe { atomic_cxchg::<Self, { SeqCst }, { SeqCst }>(place, old, new) };
                was == old
            }

            #[inline(always)]
            unsafe fn publish(place: *mut Self, value: Self) {
                if cfg!(bpf_target_arch = "x86_64") {
                    // SAFETY: the caller's.
                    unsafe { place.write_volatile(value) }
                } else {
                    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_xchg};
                    // SAFETY: the caller's.
                    unsafe { atomic_xchg::<Self, { SeqCst }>(place, value) };
                }
            }
        }
    };
}
words!(u32, core::sync::atomic::AtomicU32);
words!(u64, core::sync::atomic::AtomicU64);

/// Loads that come after this are made after those that came before it.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(super) fn order_loads() {
    core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
}

/// Loads that come after this are made after those that came before it.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(super) fn order_loads() {
    if !cfg!(bpf_target_arch = "x86_64") {
        use core::intrinsics::{AtomicOrdering::SeqCst, atomic_xchg};
        let mut own = 0_u64;
        // SAFETY: a word of the own stack. An exchange, as an addition whose result is not used would order nothing.
        unsafe { atomic_xchg::<u64, { SeqCst }>(&raw mut own, 1) };
    }
}

/// The same place, as if nothing had been read from it: what the compiler has read before it would keep on the stack, of
/// which BPF has little.
#[cfg(target_arch = "bpf")]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written there")]
#[inline(always)]
pub(super) fn anew<T>(place: &T) -> &T {
    let mut address = core::ptr::from_ref(place);
    // SAFETY: the register stays what it is.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) address, options(nomem, preserves_flags, nostack));
        &*address
    }
}

/// The same place.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(super) fn anew<T>(place: &T) -> &T {
    place
}

impl Word for Ipv4 {
    #[inline(always)]
    unsafe fn load(place: *mut Self) -> Self {
        // SAFETY: the caller's; an address is aligned as the word is.
        bytemuck::cast(unsafe { u32::load(place.cast()) })
    }

    #[inline(always)]
    unsafe fn store(place: *mut Self, value: Self) {
        // SAFETY: as in `load`.
        unsafe { u32::store(place.cast(), bytemuck::cast(value)) }
    }
}

impl Word for Ipv6 {
    #[inline(always)]
    unsafe fn load(place: *mut Self) -> Self {
        let halves = place.cast::<u64>();
        // SAFETY: the caller's; an address is aligned as its two halves are.
        bytemuck::cast(unsafe { [u64::load(halves), u64::load(halves.add(1))] })
    }

    #[inline(always)]
    unsafe fn store(place: *mut Self, value: Self) {
        let halves = place.cast::<u64>();
        let [first, second]: [u64; 2] = bytemuck::cast(value);
        // SAFETY: as in `load`.
        unsafe {
            u64::store(halves, first);
            u64::store(halves.add(1), second);
        }
    }
}
