//! Settings of the kernel that Services depend on. They are looked at, never changed: they are the operator's.

use std::fs;

use crate::devices::Network;
use crate::model::Family;

/// Warns of settings with which the node would not forward.
pub(super) fn check(network: &Network) {
    let has_v6 = network.addresses.iter().any(|address| address.is_global && Family::of(address.ip) == Family::V6);
    for (name, is_needed) in [("net.ipv4.ip_forward", true), ("net.ipv6.conf.all.forwarding", has_v6)] {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let is_off = fs::read_to_string(path).is_ok_and(|value| value.trim() == "0");
        if is_needed && is_off {
            tracing::warn!("{name} is 0: this node does not forward to pods; set it to 1 (`sysctl -w {name}=1`)");
        }
    }
}
