//! The tables of flows in the kernel.
//!
//! What is done with them but to read what was found are functions of their own: *global* ones, which the verifier goes
//! through once for all that call them (kernel/bpf/verifier.c, `do_check_subprogs`), and not for each packet that may come to
//! them. Such a function takes numbers and pointers to memory that may be null, and answers a number.

use core::ptr::NonNull;

use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::flows::{
    Alias, FlowMemory, Insertion, NewFlow, Place, Ports, SetRef, alias, insert, remove, room, search, untagged_port,
};
use proxy_common::maps::{FlowConfig, FlowEvent, FlowKey, FlowSide, FlowWay};

use crate::maps::{FLOW_CONFIG, FLOW_STATS, FLOW_V4, FLOW_V6};

/// The tables of both families.
#[derive(Clone, Copy)]
pub struct KernelFlows(&'static FlowConfig);

impl KernelFlows {
    #[inline(always)]
    pub fn new(config: &'static FlowConfig) -> Self {
        Self(config)
    }
}

/// There is no flow to be replaced; sequences have 32 bits.
const NONE_ENDED: u64 = u64::MAX;

const fn side(number: u32) -> FlowSide {
    match number {
        0 => FlowSide::Client,
        1 => FlowSide::Stack,
        _ => FlowSide::Masquerade,
    }
}

/// Implements the table of one family, and its functions.
macro_rules! flows {
    ($address:ty, $flow:ident, $search:ident, $room:ident, $remove:ident, $alias:ident, $port:ident, $insert:ident) => {
        impl FlowMemory<$address> for KernelFlows {
            #[inline(always)]
            fn set(&self, index: u32) -> Option<SetRef<'_, $address>> {
                let set = NonNull::new($flow.get_ptr_mut(index)?)?;
                // SAFETY: the elements of an array stay where they are, and all programs use them in this way.
                Some(unsafe { SetRef::new(set) })
            }

            #[inline(always)]
            fn config(&self) -> &FlowConfig {
                self.0
            }

            #[inline(always)]
            fn count(&self, event: FlowEvent) {
                if let Some(count) = FLOW_STATS.get_ptr_mut(event as u32) {
                    // SAFETY: the pointer leads into this CPU's own element, and a program is not moved to another CPU.
                    unsafe { *count += 1 }
                }
            }

            #[inline(always)]
            fn search(&self, key: &FlowKey<$address>, side: FlowSide) -> u64 {
                $search(key, side as u32)
            }

            #[inline(always)]
            fn room(&self, home: u32, now: u32) -> u32 {
                $room(home, now)
            }

            #[inline(always)]
            fn remove(&self, place: Place, sequence: u32, word: FlowWay) -> bool {
                $remove(place, sequence, word.to_word()) != 0
            }

            #[inline(always)]
            fn alias(&self, key: &FlowKey<$address>, side: FlowSide, place: Place, now: u32) -> Alias {
                Alias::from_bits($alias(key, side as u32, place, now))
            }

            #[inline(always)]
            fn untagged_port(&self, key: &mut FlowKey<$address>, ports: &mut Ports) -> bool {
                $port(key, ports) != 0
            }

            #[inline(always)]
            fn insert(&self, new: &mut NewFlow<$address>, ended: Option<u32>, random: u32) -> Insertion {
                let ended = match ended {
                    Some(sequence) => u64::from(sequence),
                    None => NONE_ENDED,
                };
                Insertion::from_bits($insert(new, ended, random))
            }
        }

        /// See [`FlowMemory::search`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $search(key: *const FlowKey<$address>, number: u32) -> u64 {
            // SAFETY: null, or a key that only the caller knows.
            let (Some(key), Some(config)) = (unsafe { key.as_ref() }, FLOW_CONFIG.get(0)) else {
                return 0;
            };
            search(&KernelFlows(config), key, side(number))
        }

        /// See [`FlowMemory::room`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $room(home: u32, now: u32) -> u32 {
            match FLOW_CONFIG.get(0) {
                Some(config) => room::<$address>(&KernelFlows(config), home, now),
                None => 0,
            }
        }

        /// See [`FlowMemory::remove`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $remove(place: u32, sequence: u32, word: u64) -> u32 {
            match FLOW_CONFIG.get(0) {
                Some(config) => {
                    let flows = KernelFlows(config);
                    u32::from(remove::<$address>(&flows, place, sequence, FlowWay::from_word(word)))
                }
                None => 0,
            }
        }

        /// See [`FlowMemory::alias`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $alias(key: *const FlowKey<$address>, number: u32, place: u32, now: u32) -> u64 {
            // SAFETY: null, or a key that only the caller knows.
            let (Some(key), Some(config)) = (unsafe { key.as_ref() }, FLOW_CONFIG.get(0)) else {
                return Alias::FAILED.bits();
            };
            alias(&KernelFlows(config), key, side(number), place, now).bits()
        }

        /// See [`FlowMemory::untagged_port`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $port(key: *mut FlowKey<$address>, ports: *mut Ports) -> u32 {
            // SAFETY: null, or what only the caller knows.
            let (Some(key), Some(ports)) = (unsafe { (key.as_mut(), ports.as_mut()) }) else {
                return 0;
            };
            match FLOW_CONFIG.get(0) {
                Some(config) => u32::from(untagged_port(&KernelFlows(config), key, ports)),
                None => 0,
            }
        }

        /// See [`FlowMemory::insert`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $insert(new: *mut NewFlow<$address>, ended: u64, random: u32) -> u64 {
            // SAFETY: null, or a flow that only the caller knows.
            let (Some(new), Some(config)) = (unsafe { new.as_mut() }, FLOW_CONFIG.get(0)) else {
                return Insertion::FULL.bits();
            };
            let ended = if ended == NONE_ENDED { None } else { Some(ended as u32) };
            insert(&KernelFlows(config), new, ended, random).bits()
        }
    };
}

flows!(Ipv4, FLOW_V4, flow_search_v4, flow_room_v4, flow_remove_v4, flow_alias_v4, flow_port_v4, flow_insert_v4);
flows!(Ipv6, FLOW_V6, flow_search_v6, flow_room_v6, flow_remove_v6, flow_alias_v6, flow_port_v6, flow_insert_v6);
