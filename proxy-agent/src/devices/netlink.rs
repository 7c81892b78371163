//! Following the network namespace by rtnetlink.
//!
//! A notification only says *that* something changed; what there is now is always read anew and in full. So a
//! lost notification (ENOBUFS) is nothing special, and there is no state to go wrong. Reading costs well under a
//! millisecond for hundreds of devices, and changes that come together are read once.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, LinkXdp};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder, constants as groups};
use tokio::sync::watch;

use super::Xdp;
use super::network::{Address, DefaultRoute, Link, Network, XdpProgram};
use crate::model::Family;
use crate::output::chain;

/// Reads again so often though nothing was heard of.
const RESYNC: Duration = Duration::from_secs(30);
/// Least time between two readings.
const PAUSE: Duration = Duration::from_millis(2);
/// Time before it is tried again after an error.
const RETRY: Duration = Duration::from_secs(1);

/// The bit of RTNLGRP_IPV6_RULE (include/uapi/linux/rtnetlink.h), which has no name there as its IPv4 twin has.
const RTMGRP_IPV6_RULE: u32 = 1 << 18;

/// The namespace cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("opening a netlink socket to follow the network devices")]
    Socket(#[from] io::Error),
    /// The kernel's answer is an error or cannot be read.
    #[error("reading the {what} of this network namespace")]
    Dump {
        /// Links, addresses, routes or rules.
        what: &'static str,
        /// What went wrong.
        source: Box<rtnetlink::Error>,
    },
}

/// Starts to follow the network namespace of the calling thread, in a task of its own that ends with the last
/// receiver. The first reading is done before it returns.
///
/// # Errors
/// When the first reading fails. Later ones are tried again.
pub async fn follow() -> Result<watch::Receiver<Network>, NetlinkError> {
    let mut socket = TokioSocket::new(protocols::NETLINK_ROUTE)?;
    let groups = groups::RTMGRP_LINK
        | groups::RTMGRP_IPV4_IFADDR
        | groups::RTMGRP_IPV6_IFADDR
        | groups::RTMGRP_IPV4_ROUTE
        | groups::RTMGRP_IPV6_ROUTE
        | groups::RTMGRP_IPV4_RULE
        | RTMGRP_IPV6_RULE;
    // Bound before the first reading, so that nothing in between is missed.
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let (sender, receiver) = watch::channel(read(&handle).await?);
    tokio::spawn(async move {
        tokio::select! {
            () = keep_reading(&socket, &handle, &sender) => {}
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

async fn keep_reading(socket: &TokioSocket, handle: &Handle, sender: &watch::Sender<Network>) {
    loop {
        let _resync = tokio::time::timeout(RESYNC, changed(socket)).await;
        match read(handle).await {
            Ok(network) => {
                sender.send_if_modified(|known| {
                    let is_new = *known != network;
                    *known = network;
                    is_new
                });
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                tracing::warn!("{}; trying again", chain(&error));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Returns when something that matters has changed.
async fn changed(socket: &TokioSocket) {
    loop {
        match socket.recv_from_full().await {
            Ok((messages, _)) => {
                if matters(&messages) {
                    return;
                }
            }
            // Notifications were lost: whatever they said is read now.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return,
            Err(error) => {
                tracing::warn!("receiving news of network devices: {error}; trying again");
                return tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Whether one of the messages is about a link, an address, a rule or a default route.
fn matters(mut messages: &[u8]) -> bool {
    /// `struct nlmsghdr`, and where `struct rtmsg` after it has the length of the destination's prefix.
    const HEADER: usize = 16;
    const PREFIX_LEN: usize = HEADER + 1;
    const RTM_NEWROUTE: u16 = 24;
    const RTM_DELROUTE: u16 = 25;
    while let Some(([l0, l1, l2, l3, t0, t1], _)) = messages.split_first_chunk::<6>() {
        let length = u32::from_ne_bytes([*l0, *l1, *l2, *l3]) as usize;
        let kind = u16::from_ne_bytes([*t0, *t1]);
        let is_route = kind == RTM_NEWROUTE || kind == RTM_DELROUTE;
        if !is_route || messages.get(PREFIX_LEN) == Some(&0) {
            return true;
        }
        // Messages are aligned to 4 bytes. One shorter than its header would never end.
        let next = length.max(HEADER).next_multiple_of(4).min(messages.len());
        messages = messages.get(next..).unwrap_or_default();
    }
    false
}

async fn read(handle: &Handle) -> Result<Network, NetlinkError> {
    let failed = |what| move |source| NetlinkError::Dump { what, source: Box::new(source) };
    let mut network = Network::default();
    let mut links =
        Box::pin(handle.link().get().set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]).execute());
    while let Some(message) = links.try_next().await.map_err(failed("devices"))? {
        let link = link(message);
        network.links.insert(link.ifindex, link);
    }
    let mut addresses = Box::pin(handle.address().get().execute());
    while let Some(message) = addresses.try_next().await.map_err(failed("addresses"))? {
        network.addresses.extend(address(message));
    }
    let requests = [
        (Family::V4, RouteMessageBuilder::<std::net::Ipv4Addr>::new().build()),
        (Family::V6, RouteMessageBuilder::<std::net::Ipv6Addr>::new().build()),
    ];
    for (family, request) in requests {
        let mut routes = Box::pin(handle.route().get(request).execute());
        while let Some(message) = routes.try_next().await.map_err(failed("routes"))? {
            network.default_routes.extend(default_routes(family, &message));
            network.routes.extend(destination(&message));
            network.routes_by_source |= is_by_source(&message);
        }
    }
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut rules = Box::pin(handle.rule().get(version).execute());
        loop {
            match rules.try_next().await {
                Ok(Some(rule)) => network.routes_by_source |= rule.header.src_len != 0,
                Ok(None) => break,
                // A kernel without rules.
                Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EOPNOTSUPP => break,
                Err(error) => return Err(failed("routing rules")(error)),
            }
        }
    }
    Ok(network)
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        ifindex: message.header.index,
        hardware: u16::from(message.header.link_layer_type),
        is_loopback: message.header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.ethernet = bytes.try_into().ok(),
            LinkAttribute::Controller(master) if master != 0 => link.master = Some(master),
            LinkAttribute::Link(lower) if lower != 0 => link.lower = Some(lower),
            LinkAttribute::LinkNetNsId(_) => link.is_lower_elsewhere = true,
            LinkAttribute::Xdp(about) => {
                link.xdp = about.into_iter().find_map(|about| match about {
                    LinkXdp::DrvProgId(id) => Some(XdpProgram { id, how: Xdp::Native }),
                    LinkXdp::SkbProgId(id) => Some(XdpProgram { id, how: Xdp::Generic }),
                    _ => None,
                });
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::PortKind(kind) => link.port_of = Some(kind.to_string()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn address(message: AddressMessage) -> Option<Address> {
    let mut peer = None;
    let mut local = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Address(address) => peer = Some(address),
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    let ip: IpAddr = local.or(peer)?;
    Some(Address {
        ifindex: message.header.index,
        ip,
        is_global: message.header.scope == AddressScope::Universe && !ip.is_loopback(),
        is_secondary: flags.contains(AddressFlags::Secondary),
        is_deprecated: flags.contains(AddressFlags::Deprecated),
        is_tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
            && !flags.contains(AddressFlags::Optimistic),
    })
}

/// Whether the way by this route depends on a packet's source: the kernel spreads packets over several hops by both addresses
/// (fib_multipath_hash_policy), or the route is for some sources only. A route that only names a nexthop object, as where
/// nexthop_compat_mode is off, may be either.
fn is_by_source(message: &RouteMessage) -> bool {
    let mut is_told = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::MultiPath(hops) if hops.len() > 1 => return true,
            RouteAttribute::MultiPath(_) | RouteAttribute::Oif(_) => is_told = true,
            _ => {}
        }
    }
    message.header.source_prefix_length != 0 || message.header.kind == RouteType::Unicast && !is_told
}

/// Where a route leads to that is not a default route.
fn destination(message: &RouteMessage) -> Option<IpNet> {
    if message.header.destination_prefix_length == 0 || message.header.kind != RouteType::Unicast {
        return None;
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    IpNet::new(destination, message.header.destination_prefix_length).ok()
}

/// The default routes in a message: one for each device of a multipath route.
fn default_routes(family: Family, message: &RouteMessage) -> Vec<DefaultRoute> {
    if message.header.destination_prefix_length != 0 || message.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let mut metric = 0;
    let mut devices = BTreeSet::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => devices.extend([*ifindex]),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    devices.into_iter().map(|ifindex| DefaultRoute { family, metric, ifindex }).collect()
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteNextHop;

    use super::*;

    #[test]
    fn routes_that_depend_on_who_sends() {
        let hops = |count| RouteAttribute::MultiPath(vec![RouteNextHop::default(); count]);
        for (attribute, source, is_by) in [
            (RouteAttribute::Oif(2), 0, false),
            (RouteAttribute::Oif(2), 64, true),
            (hops(1), 0, false),
            (hops(2), 0, true),
            (RouteAttribute::NhId(7), 0, true),
        ] {
            let mut message = RouteMessage::default();
            message.header.kind = RouteType::Unicast;
            message.header.source_prefix_length = source;
            let what = format!("{attribute:?}, {source}");
            message.attributes = vec![attribute];
            assert_eq!(is_by_source(&message), is_by, "{what}");
        }
        let mut nowhere = RouteMessage::default();
        nowhere.header.kind = RouteType::BlackHole;
        assert!(!is_by_source(&nowhere));
    }
}
