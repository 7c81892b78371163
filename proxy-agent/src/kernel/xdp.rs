//! Attaching by XDP links (kernel 5.9 and later), pinned so that they outlive the agent.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::pins::{self, PinPath};
use super::sys;
use super::tcx::Came;
use crate::devices::{Xdp, XdpProgram};

/// Attaches a program to a device, or gives its pinned link the program. Returns the link's id.
///
/// A pinned link is only adopted if its program is the one that the device has *in this network namespace*, in the
/// same way. `present` is what was last heard of that.
pub(super) fn attach(
    pins: &PinPath,
    program: BorrowedFd<'_>,
    ifindex: u32,
    how: Xdp,
    present: Option<XdpProgram>,
) -> io::Result<(u32, Came)> {
    let path = pins.xdp_link(ifindex);
    match sys::open_pin(&path) {
        Ok(link) => {
            let info = sys::link_info(link.as_fd())?;
            let is_present = present.is_some_and(|present| present.id == info.prog_id && present.how == how);
            if info.is_xdp_of(ifindex) && is_present {
                sys::link_update(link.as_fd(), program)?;
                return Ok((info.id, Came::Adopted));
            }
            drop(link);
            pins::remove(&path).map_err(io::Error::other)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let link = sys::xdp_link_create(program, ifindex, how == Xdp::Generic)?;
    sys::pin(link.as_fd(), &path)?;
    Ok((sys::link_info(link.as_fd())?.id, Came::New))
}

/// Whether a link is still pinned there and attached to the device.
pub(super) fn is_attached(path: &Path, ifindex: u32, id: u32) -> io::Result<bool> {
    match sys::open_pin(path) {
        Ok(link) => sys::link_info(link.as_fd()).map(|info| info.id == id && info.is_xdp_of(ifindex)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
