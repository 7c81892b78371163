//! The bpf(2) calls that aya does not offer, or offers only together with what we do otherwise.
//!
//! The attributes are those of `union bpf_attr` in include/uapi/linux/bpf.h. All unsafe code of the agent that
//! enters the kernel is here and in [`super::mapping`]; the functions are safe: they take slices and check their lengths.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::direction::Direction;

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_ITER_CREATE: libc::c_int = 33;

/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;
/// `BPF_LINK_TYPE_CGROUP`.
const LINK_TYPE_CGROUP: u32 = 3;
const BPF_TRACE_ITER: u32 = 28;
/// Flag of an update: only where there is none.
const BPF_NOEXIST: u64 = 1;
/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_XDP: u32 = 37;

/// How many programs at one hook of a device are looked through; the kernel allows 64 (`BPF_MPROG_MAX`).
const MAX_LINKS: usize = 64;

#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[repr(C)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    /// Or the descriptor of a control group.
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

#[repr(C)]
struct IterLinkAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    info: u64,
    info_len: u32,
    pad: u32,
}

#[repr(C)]
struct IterCreateAttr {
    link_fd: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
struct QueryAttr {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MapInfo {
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Number by which the kernel knows it.
    pub id: u32,
    /// Bytes in a key.
    pub key_size: u32,
    /// Bytes in a value, of one CPU.
    pub value_size: u32,
    /// Most entries.
    pub max_entries: u32,
    /// `BPF_F_*` of its creation.
    pub flags: u32,
}

/// The beginning of `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkInfo {
    kind: u32,
    /// Number by which the kernel knows it.
    pub id: u32,
    /// Number of its program.
    pub prog_id: u32,
    pad: u32,
    /// What follows depends on the kind; this is of a control group. 0 where it has gone or the link was detached.
    cgroup_id: u64,
    attach_type: u32,
    end: u32,
}

impl LinkInfo {
    /// Whether it attaches a program to a device by TCX.
    pub(super) fn is_tcx(&self) -> bool {
        self.kind == LINK_TYPE_TCX
    }

    /// Whether it attaches a program to a device by XDP. The number of the device is the first thing told of such a link.
    pub(super) fn is_xdp_of(&self, ifindex: u32) -> bool {
        let [a, b, c, d, ..] = self.cgroup_id.to_ne_bytes();
        self.kind == LINK_TYPE_XDP && u32::from_ne_bytes([a, b, c, d]) == ifindex
    }

    /// Whether it attaches a program to a control group, by the number of its folder, in this way.
    pub(super) fn is_of_cgroup(&self, id: u64, attach_type: u32) -> bool {
        self.kind == LINK_TYPE_CGROUP && self.cgroup_id == id && self.attach_type == attach_type
    }
}

/// The call itself.
///
/// # Safety
/// `attr` is the struct that `command` takes, and every address in it is good for what the command does with it.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes and writes no more; the rest is promised by the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The descriptor that a successful call returned.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = libc::c_int::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us (with O_CLOEXEC, as all descriptors of bpf(2)).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr() as u64
}

fn address_mut(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr() as u64
}

fn path_text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Reads an element. False where there is none. `value` holds it for all CPUs if the map is per CPU.
pub(super) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = ElementAttr { map_fd: raw(map), pad: 0, key: address(key), value: address_mut(value), flags: 0 };
    // SAFETY: `RawMap` has compared the sizes with the map's, and both slices outlive the call.
    match unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes an element, new or not.
pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    write(map, key, value, 0)
}

/// Writes an element that is not there yet. False where it is.
pub(super) fn insert(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<bool> {
    match write(map, key, value, BPF_NOEXIST) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn write(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let mut attr = ElementAttr { map_fd: raw(map), pad: 0, key: address(key), value: address(value), flags };
    // SAFETY: as in `lookup`; the kernel only reads the value.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Removes an element. False where there was none.
pub(super) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr = ElementAttr { map_fd: raw(map), pad: 0, key: address(key), value: 0, flags: 0 };
    // SAFETY: as in `lookup`.
    match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The key after `key`, or the first one. False at the end.
pub(super) fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let key = key.map_or(0, address);
    let mut attr = ElementAttr { map_fd: raw(map), pad: 0, key, value: address_mut(next), flags: 0 };
    // SAFETY: as in `lookup`; a key of 0 asks for the first.
    match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where a batch ended and the next one begins: opaque, 4 bytes or as many as a key.
pub(super) type Cursor = Vec<u8>;

/// What a batch has read.
pub(super) struct Batch {
    /// How many elements.
    pub count: usize,
    /// Whether they were the last ones.
    pub is_last: bool,
}

/// Reads the next elements: as many as `capacity`, for which both slices have room.
pub(super) fn lookup_batch(
    map: BorrowedFd<'_>,
    cursor: &mut Option<Cursor>,
    key_size: usize,
    keys: &mut [u8],
    values: &mut [u8],
    capacity: usize,
) -> io::Result<Batch> {
    let mut out = vec![0; key_size.max(4)];
    let mut attr = BatchAttr {
        in_batch: cursor.as_deref().map_or(0, address),
        out_batch: address_mut(&mut out),
        keys: address_mut(keys),
        values: address_mut(values),
        count: u32::try_from(capacity).unwrap_or(u32::MAX),
        map_fd: raw(map),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `RawMap` has compared the sizes with the map's and made room for `capacity` elements; cursors are as
    // long as the kernel's (4 bytes for hash maps, a key for others).
    let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
    let is_last = match result {
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error),
    };
    *cursor = Some(out);
    Ok(Batch { count: (attr.count as usize).min(capacity), is_last })
}

/// Writes `count` elements, whose keys and values lie one behind the other. Those before one that fails are written.
pub(super) fn update_batch(map: BorrowedFd<'_>, keys: &[u8], values: &[u8], count: usize) -> io::Result<()> {
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: address(keys),
        values: address(values),
        count: u32::try_from(count).map_err(io::Error::other)?,
        map_fd: raw(map),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `RawMap` has compared the sizes with the map's, and gives `count` keys and values.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

/// Opens what is pinned at a path.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = path_text(path)?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the path ends with a zero byte and outlives the call.
    unsafe { bpf(BPF_OBJ_GET, &mut attr) }.and_then(owned)
}

/// Pins an object. Its folder must be there, and nothing at the path.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_text(path)?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, fd: raw(object), flags: 0 };
    // SAFETY: as in `open_pin`.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// What the kernel tells about an object.
fn info<T: Default>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let len = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let mut attr = InfoAttr { fd: raw(object), len, info: std::ptr::from_mut(&mut info) as u64 };
    // SAFETY: `info` has room for `len` bytes, and the kernel writes no more. The callers pass structs of
    // integers, so that every content is valid.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// What the kernel tells about a map.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(map)
}

/// What the kernel tells about a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(link)
}

fn attach_type(direction: Direction) -> u32 {
    match direction {
        Direction::In => BPF_TCX_INGRESS,
        Direction::Out => BPF_TCX_EGRESS,
    }
}

/// Attaches a program to a device of this network namespace by TCX, after those that are there.
pub(super) fn link_create(program: BorrowedFd<'_>, ifindex: u32, direction: Direction) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        prog_fd: raw(program),
        ifindex,
        attach_type: attach_type(direction),
        flags: 0,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    // SAFETY: there is no address in it.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr) }.and_then(owned)
}

/// Attaches a program to a device of this network namespace by XDP: by its driver, or by the kernel behind it.
pub(super) fn xdp_link_create(program: BorrowedFd<'_>, ifindex: u32, is_generic: bool) -> io::Result<OwnedFd> {
    /// `XDP_FLAGS_*` (include/uapi/linux/if_link.h).
    const SKB_MODE: u32 = 1 << 1;
    const DRV_MODE: u32 = 1 << 2;
    let mut attr = LinkCreateAttr {
        prog_fd: raw(program),
        ifindex,
        attach_type: BPF_XDP,
        flags: if is_generic { SKB_MODE } else { DRV_MODE },
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    // SAFETY: there is no address in it.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr) }.and_then(owned)
}

/// Attaches a program to a control group, beside those that are there.
pub(super) fn cgroup_link_create(
    program: BorrowedFd<'_>,
    group: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        prog_fd: raw(program),
        ifindex: raw(group),
        attach_type,
        flags: 0,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    // SAFETY: there is no address in it.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr) }.and_then(owned)
}

/// Opens an iterator over the elements of a map: what is read is what the program writes about each.
pub(super) fn iterate(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<File> {
    // The beginning of `union bpf_iter_link_info`.
    let info = raw(map).to_ne_bytes();
    let mut attr = IterLinkAttr {
        prog_fd: raw(program),
        target_fd: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        info: address(&info),
        info_len: 4,
        pad: 0,
    };
    // SAFETY: `info` has as many bytes as said and outlives the call.
    let link = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }.and_then(owned)?;
    let mut attr = IterCreateAttr { link_fd: raw(&link), flags: 0 };
    // SAFETY: there is no address in it. What it makes keeps the link.
    unsafe { bpf(BPF_ITER_CREATE, &mut attr) }.and_then(owned).map(File::from)
}

/// The cookie of this network namespace, by which the programs know it. `None` before kernel 5.14.
pub(super) fn netns_cookie() -> io::Result<Option<u64>> {
    /// `SO_NETNS_COOKIE` of include/uapi/asm-generic/socket.h.
    const NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    let to = (&raw mut cookie).cast();
    // SAFETY: the kernel writes `length` bytes at most, for which there is room.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, NETNS_COOKIE, to, &raw mut length) };
    if result == 0 {
        return Ok(Some(cookie));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        error => Err(error),
    }
}

/// Puts another program in the place of a link's, between two packets.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr { link_fd: raw(link), prog_fd: raw(program), flags: 0, old_prog_fd: 0 };
    // SAFETY: there is no address in it.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// The ids of the TCX links of a device of this network namespace. Programs attached without a link have id 0.
pub(super) fn tcx_links(ifindex: u32, direction: Direction) -> io::Result<Vec<u32>> {
    let mut programs = [0_u32; MAX_LINKS];
    let mut links = [0_u32; MAX_LINKS];
    let mut attr = QueryAttr {
        ifindex,
        attach_type: attach_type(direction),
        query_flags: 0,
        attach_flags: 0,
        prog_ids: programs.as_mut_ptr() as u64,
        count: u32::try_from(MAX_LINKS).map_err(io::Error::other)?,
        pad: 0,
        prog_attach_flags: 0,
        link_ids: links.as_mut_ptr() as u64,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: both arrays have room for `count` numbers and outlive the call.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    Ok(links.into_iter().take(attr.count as usize).collect())
}
