//! Removing all that agents ever made at a pin path.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use futures::TryStreamExt;
use rtnetlink::packet_route::tc::TcHandle;

use super::error::PinError;
use super::pins::{self, PinPath};
use super::{Direction, clsact, sys};

/// Something that could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// An agent runs, or the filesystem refuses.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A filter cannot be removed.
    #[error("removing the {direction} filter of device {device}")]
    Filter {
        /// Which one.
        direction: Direction,
        /// Name of the device.
        device: String,
        /// What the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// rtnetlink cannot be used.
    #[error("opening a netlink socket")]
    Netlink(#[from] io::Error),
}

/// Removes every link, filter, map and empty folder at a pin path, of every layout, and reports each in a few
/// words. Filters are looked for in this network namespace only: they belong to its devices.
///
/// With `force` it does so though an agent runs, which puts some of it back.
///
/// # Errors
/// [`PinError::Locked`] when an agent runs; other errors when something cannot be removed.
pub async fn cleanup(pins: &PinPath, force: bool, mut report: impl FnMut(String)) -> Result<(), CleanupError> {
    let _lock = match pins.lock() {
        Err(PinError::Locked { .. }) if force => None,
        other => other?,
    };
    if !pins.path().exists() {
        return Ok(());
    }
    let sets = pins.sets()?;
    let devices = sets.iter().flat_map(|set| known_devices(&set.folder)).collect();
    remove_all(&pins.links(), "link", &mut report)?;
    remove_filters(&devices, &mut report).await?;
    remove_folder(&pins.links(), &mut report)?;
    pins::remove(&pins.maps())?;
    for set in &sets {
        remove_all(&set.folder, "map", &mut report)?;
        remove_folder(&set.folder, &mut report)?;
    }
    // Folders above it that are empty now were made for it; the mount point itself stays.
    let mut folder = Some(pins.path());
    while let Some(path) = folder
        && remove_folder(path, &mut report)?
    {
        folder = path.parent();
    }
    Ok(())
}

fn remove_all(folder: &Path, what: &str, report: &mut impl FnMut(String)) -> Result<(), PinError> {
    for path in pins::list(folder)?.into_iter().filter(|path| !path.is_dir()) {
        if pins::remove(&path)? {
            report(format!("{what} {}", path.display()));
        }
    }
    Ok(())
}

/// Removes an empty folder. Returns whether it did.
fn remove_folder(folder: &Path, report: &mut impl FnMut(String)) -> Result<bool, PinError> {
    match fs::remove_dir(folder) {
        Ok(()) => {
            report(format!("folder {}", folder.display()));
            Ok(true)
        }
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTEMPTY | libc::EBUSY | libc::EPERM) => Ok(false),
            _ => Err(PinError::Io { action: "removing the folder", path: folder.to_owned(), source: error }),
        },
    }
}

/// The keys of a pinned `device` map, of whatever layout: the devices that programs were attached to.
fn known_devices(folder: &Path) -> BTreeSet<u32> {
    let mut devices = BTreeSet::new();
    let Ok(map) = sys::open_pin(&folder.join("device")) else { return devices };
    if !sys::map_info(map.as_fd()).is_ok_and(|info| info.key_size == 4) {
        return devices;
    }
    let mut key: Option<[u8; 4]> = None;
    let mut next = [0; 4];
    while let Ok(true) = sys::next_key(map.as_fd(), key.as_ref().map(|key| key.as_slice()), &mut next) {
        // A key that is removed meanwhile begins the list anew.
        if !devices.insert(u32::from_ne_bytes(next)) {
            break;
        }
        key = Some(next);
    }
    devices
}

async fn remove_filters(devices: &BTreeSet<u32>, report: &mut impl FnMut(String)) -> Result<(), CleanupError> {
    for ifindex in devices {
        let Some(device) = super::device_name(*ifindex) else { continue };
        let mut is_removed = false;
        for direction in Direction::ALL {
            let removed = clsact::detach(&device, direction).map_err(|source| CleanupError::Filter {
                direction,
                device: device.clone(),
                source: Box::new(source),
            })?;
            if removed {
                report(format!("clsact filter of {device}, {direction}"));
                is_removed = true;
            }
        }
        if is_removed && remove_empty_clsact(*ifindex).await? {
            report(format!("clsact qdisc of {device}"));
        }
    }
    Ok(())
}

/// Removes the clsact qdisc of a device that has no filter left. Returns whether it did.
async fn remove_empty_clsact(ifindex: u32) -> Result<bool, io::Error> {
    let index = i32::try_from(ifindex).map_err(io::Error::other)?;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let mut filters = handle.traffic_filter(index);
    let mut is_empty = true;
    for request in [filters.get().ingress(), filters.get().egress()] {
        // What cannot be read may be somebody's filter.
        let first = request.execute().try_next().await;
        is_empty &= matches!(first, Ok(None));
    }
    let mut is_removed = false;
    if is_empty {
        let mut request = handle.qdisc().del(index);
        request.message_mut().header.parent = TcHandle::CLSACT;
        is_removed = request.execute().await.is_ok();
    }
    connection.abort();
    Ok(is_removed)
}
