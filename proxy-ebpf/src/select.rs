//! The choice of a backend as functions of their own, which the verifier goes through once: see [`crate::flows`].

use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::datapath::{Choice, Origin, Refusal, select};
use proxy_common::maps::{DropReason, FrontendKey};

use crate::env::KernelEnv;

/// A choice was made.
const CHOSEN: u32 = 0;

fn code(result: Result<(), Refusal>) -> u32 {
    match result {
        Ok(()) => CHOSEN,
        Err(Refusal::NoFrontend) => 1,
        Err(Refusal::NobodyServes) => 2,
        Err(Refusal::UnknownPort) => 3,
        Err(Refusal::Drop(DropReason::SourceRange)) => 4,
        Err(Refusal::Drop(DropReason::NoLocalBackend)) => 5,
        Err(Refusal::Drop(DropReason::UnknownAddress)) => 6,
        Err(Refusal::Drop(_)) => 7,
    }
}

/// What a function answered.
#[inline(always)]
pub fn result(code: u32) -> Result<(), Refusal> {
    match code {
        CHOSEN => Ok(()),
        1 => Err(Refusal::NoFrontend),
        2 => Err(Refusal::NobodyServes),
        3 => Err(Refusal::UnknownPort),
        4 => Err(Refusal::Drop(DropReason::SourceRange)),
        5 => Err(Refusal::Drop(DropReason::NoLocalBackend)),
        6 => Err(Refusal::Drop(DropReason::UnknownAddress)),
        _ => Err(Refusal::Drop(DropReason::BackendMissing)),
    }
}

/// The clients of a device.
const BY_DEVICE: u8 = 0;

/// What else is known of a client, in one number: who it is, if that is known without the device, its port, and whether
/// another hook looks at what this one leaves.
#[inline(always)]
pub fn about(origin: Option<Origin>, [high, low]: [u8; 2], is_first: bool) -> u32 {
    let origin: u8 = match origin {
        None => BY_DEVICE,
        Some(Origin::Node) => 1,
        Some(Origin::Pods) => 2,
        Some(Origin::ByAddress) => 3,
        Some(Origin::Elsewhere) => 4,
    };
    u32::from_ne_bytes([high, low, origin, u8::from(is_first)])
}

#[inline(always)]
fn env(ifindex: u32, origin: u8, is_first: u8) -> Option<KernelEnv> {
    let origin = match origin {
        BY_DEVICE => None,
        1 => Some(Origin::Node),
        2 => Some(Origin::Pods),
        3 => Some(Origin::ByAddress),
        _ => Some(Origin::Elsewhere),
    };
    KernelEnv::for_choice(ifindex, origin, is_first != 0)
}

/// Makes the function of one family.
macro_rules! choice {
    ($address:ty, $select:ident) => {
        /// See [`Tables::select`](proxy_common::datapath::Tables::select).
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $select(
            client: *const $address,
            key: *const FrontendKey<$address>,
            choice: *mut Choice<$address>,
            ifindex: u32,
            about: u32,
        ) -> u32 {
            // SAFETY: null, or what only the caller knows.
            let (Some(client), Some(key), Some(choice)) = (unsafe { (client.as_ref(), key.as_ref(), choice.as_mut()) })
            else {
                return code(Err(Refusal::NoFrontend));
            };
            let [high, low, origin, is_first] = about.to_ne_bytes();
            match env(ifindex, origin, is_first) {
                Some(mut env) => code(select(&mut env, client, [high, low], key, choice)),
                None => code(Err(Refusal::NoFrontend)),
            }
        }
    };
}

choice!(Ipv4, select_v4);
choice!(Ipv6, select_v6);
