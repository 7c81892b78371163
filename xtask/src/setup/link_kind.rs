//! Asks the kernel whether it knows a kind of network device, by making one in a network namespace of a thread's own,
//! which goes away with the thread. Nothing of it is ever seen outside.
//!
//! Rtnetlink is spoken by hand, sixty bytes of it, so that it can be asked before `ip` is installed.

use std::os::fd::AsRawFd as _;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const RTM_NEWLINK: u16 = 16;
const NLMSG_ERROR: u16 = 2;
/// Request, acknowledge, create, and only if it is not there.
const FLAGS: u16 = 0x1 | 0x4 | 0x400 | 0x200;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const HEADER_LEN: usize = 16;
const IFINFO_LEN: usize = 16;

/// Whether the kernel knows the kind; `None` where it cannot be tried.
pub fn is_known(kind: &'static str) -> Result<Option<bool>> {
    let attempt = thread::spawn(move || attempt(kind));
    attempt.join().map_err(|_| anyhow!("the thread that tried devices of kind {kind} panicked"))?
}

fn attempt(kind: &str) -> Result<Option<bool>> {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => {}
        Err(Errno::EPERM) => return Ok(None),
        Err(error) => return Err(error).context("could not make a network namespace (CONFIG_NET_NS)"),
    }
    let flags = SockFlag::SOCK_CLOEXEC;
    let rtnetlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)
        .context("could not open an rtnetlink socket")?;
    let fd = rtnetlink.as_raw_fd();
    send(fd, &new_link(kind)?, MsgFlags::empty()).context("could not ask for a network device")?;
    let mut answer = [0; 1024];
    let len = recv(fd, &mut answer, MsgFlags::empty()).context("no answer about a network device")?;
    let error = answer.get(..len).and_then(error_of).context("the answer about a network device makes no sense")?;
    // Whatever else is wrong with our short request: only this means that nobody knows the kind.
    Ok(Some(error != Errno::EOPNOTSUPP as i32))
}

/// The request for a device of a kind.
fn new_link(kind: &str) -> Result<Vec<u8>> {
    let name = attribute(IFLA_IFNAME, b"probe\0")?;
    let info = attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, kind.as_bytes())?)?;
    let len = HEADER_LEN + IFINFO_LEN + name.len() + info.len();
    let mut message = Vec::with_capacity(len);
    message.extend(u32::try_from(len)?.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.resize(HEADER_LEN + IFINFO_LEN, 0);
    message.extend(name);
    message.extend(info);
    Ok(message)
}

/// An attribute, padded to a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Result<Vec<u8>> {
    let len = u16::try_from(4 + value.len())?;
    let mut attribute = Vec::new();
    attribute.extend(len.to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    Ok(attribute)
}

/// The error number of an acknowledgement, 0 where all went well.
fn error_of(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(answer.get(HEADER_LEN..HEADER_LEN + 4)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(-error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let message = new_link("veth").expect("it is short");
        assert_eq!(message.len(), HEADER_LEN + IFINFO_LEN + 12 + 12);
        assert_eq!(message.first_chunk::<4>().map(|len| u32::from_ne_bytes(*len)), Some(56));
    }

    #[test]
    fn only_an_acknowledgement_has_an_error_number() {
        let mut answer = vec![0; 20];
        answer.splice(4..6, NLMSG_ERROR.to_ne_bytes());
        answer.splice(16..20, (-95_i32).to_ne_bytes());
        assert_eq!(error_of(&answer), Some(95));
        answer.splice(4..6, RTM_NEWLINK.to_ne_bytes());
        assert_eq!(error_of(&answer), None);
        assert_eq!(error_of(&[]), None);
    }

    #[test]
    fn the_kernel_knows_its_own_mind() {
        // `None` where the tests run without root.
        assert_ne!(is_known("veth").expect("the kernel answers"), Some(false));
        assert_ne!(is_known("nosuchkind").expect("the kernel answers"), Some(true));
    }
}
