//! Attaching by filters of the clsact qdisc, where the kernel has no TCX.
//!
//! Filters belong to the device and outlive the agent by themselves. Ours have a priority and a handle of their
//! own, by which they are found again: a new agent replaces them instead of adding more.

use aya::programs::links::Link;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::Direction;
use super::tcx::Came;

/// Late, as other programs should see packets first; odd enough to be nobody else's.
const PRIORITY: u16 = 0x506f;
const HANDLE: TcHandle = TcHandle::new(0, 0x506f);

/// Attaches a program to a device, or puts it in the place of the one that is there, between two packets.
pub(super) fn attach(program: &mut SchedClassifier, device: &str, direction: Direction) -> Result<Came, ProgramError> {
    match tc::qdisc_add_clsact(device) {
        Ok(()) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let kind = attach_type(direction);
    let (id, came) = match program.attach_to_link(filter(device, direction)?) {
        Err(error) if is_missing(&error) => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            (program.attach_with_options(device, kind, TcAttachOptions::Netlink(options))?, Came::New)
        }
        other => (other?, Came::Adopted),
    };
    // Dropped, it would detach the program.
    std::mem::forget(program.take_link(id)?);
    Ok(came)
}

/// Removes our filter from a device. Returns whether there was one.
pub(super) fn detach(device: &str, direction: Direction) -> Result<bool, ProgramError> {
    match filter(device, direction)?.detach() {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Our filter on a device, whether or not it is there.
fn filter(device: &str, direction: Direction) -> Result<SchedClassifierLink, ProgramError> {
    SchedClassifierLink::attached(device, attach_type(direction), PRIORITY, HANDLE, None)
        .map_err(|error| TcError::IoError(error).into())
}

fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::In => TcAttachType::Ingress,
        Direction::Out => TcAttachType::Egress,
    }
}

/// Whether there is no such filter (ENOENT), no clsact qdisc (EINVAL) or no such device (ENODEV).
fn is_missing(error: &ProgramError) -> bool {
    let code = match error {
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => error.raw_os_error(),
        ProgramError::TcError(TcError::IoError(error)) => error.raw_os_error(),
        _ => None,
    };
    matches!(code, Some(libc::ENOENT | libc::EINVAL | libc::ENODEV))
}
