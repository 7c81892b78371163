//! Attaching by TCX links (kernel 6.6 and later), pinned so that they outlive the agent.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::pins::{self, PinPath};
use super::{Direction, sys};

/// Whether this kernel has TCX.
pub(super) fn is_supported() -> bool {
    const LOOPBACK: u32 = 1;
    match sys::tcx_links(LOOPBACK, Direction::In) {
        Ok(_) => true,
        // The question is not understood, or is longer than this kernel knows it.
        Err(error) => !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::E2BIG | libc::EOPNOTSUPP)),
    }
}

/// How a link, or a filter, came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It is new.
    New,
    /// It was there and has the new program now.
    Adopted,
}

/// Attaches a program to a device, or gives its pinned link the program. Returns the link's id.
///
/// A pinned link is only adopted if it is among those that the device of this ifindex *in this network
/// namespace* has. Otherwise it belongs to a device that is gone, or to another namespace, and is removed.
pub(super) fn attach(
    pins: &PinPath,
    program: BorrowedFd<'_>,
    ifindex: u32,
    direction: Direction,
) -> Result<(u32, Came), Box<dyn std::error::Error + Send + Sync>> {
    let path = pins.link(ifindex, direction);
    let present = present(ifindex, direction)?;
    match sys::open_pin(&path) {
        Ok(link) => {
            if let Some(id) = adopt(&link, &present, program)? {
                return Ok((id, Came::Adopted));
            }
            pins::remove(&path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let link = sys::link_create(program, ifindex, direction)?;
    sys::pin(link.as_fd(), &path)?;
    Ok((sys::link_info(link.as_fd())?.id, Came::New))
}

fn adopt(link: &OwnedFd, present: &[u32], program: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let info = sys::link_info(link.as_fd())?;
    if !info.is_tcx() || !present.contains(&info.id) {
        return Ok(None);
    }
    sys::link_update(link.as_fd(), program)?;
    Ok(Some(info.id))
}

/// Whether a link is still attached to the device.
pub(super) fn is_attached(ifindex: u32, direction: Direction, id: u32) -> io::Result<bool> {
    Ok(present(ifindex, direction)?.contains(&id))
}

fn present(ifindex: u32, direction: Direction) -> io::Result<Vec<u32>> {
    match sys::tcx_links(ifindex, direction) {
        // Nothing was ever attached here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}
