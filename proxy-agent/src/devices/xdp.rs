//! The rule that says which devices get an XDP program.
//!
//! Uplinks with Ethernet headers that frames really come in by: hardware, bonds, and with a mode that is not `auto` the other
//! end of a pair or a tap. What comes in by a VLAN, a tunnel or an overlay has come in by another device before; what comes
//! in by a port of a bridge belongs to the bridge.

use proxy_common::maps::DeviceRole;

use super::{Class, Layer, Link};

/// Whether packets from outside are taken care of by XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// No: tc does everything.
    #[default]
    Off,
    /// On hardware whose driver can do it.
    Auto,
    /// On all uplinks whose drivers can do it, those between network namespaces among them.
    Native,
    /// On all uplinks, by the kernel where the driver cannot: slower than tc alone, for trying out.
    Generic,
}

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xdp {
    /// By the driver.
    Native,
    /// By the kernel, behind the driver.
    Generic,
}

/// Applies the rule to a device.
pub(super) fn xdp(mode: XdpMode, class: Class, link: &Link) -> Option<Xdp> {
    let is_port = link.port_of.as_deref().is_some_and(|kind| kind != "vrf");
    if class.role != DeviceRole::Uplink || class.layer != Layer::Ethernet || is_port {
        return None;
    }
    match (mode, link.kind.as_deref()) {
        (XdpMode::Auto | XdpMode::Native, None) | (XdpMode::Native, Some("bond" | "veth" | "tun")) => Some(Xdp::Native),
        (XdpMode::Generic, None | Some("bond" | "veth" | "tun")) => Some(Xdp::Generic),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        use DeviceRole::{Pod, Uplink};
        use XdpMode::{Auto, Generic, Native, Off};
        let (native, generic) = (Some(Xdp::Native), Some(Xdp::Generic));
        for (role, layer, kind, port_of, expected) in [
            (Uplink, Layer::Ethernet, None, None, [None, native, native, generic]),
            (Uplink, Layer::Ethernet, None, Some("vrf"), [None, native, native, generic]),
            (Uplink, Layer::Ethernet, None, Some("bridge"), [None; 4]),
            (Uplink, Layer::Ethernet, Some("bond"), None, [None, None, native, generic]),
            (Uplink, Layer::Ethernet, Some("veth"), None, [None, None, native, generic]),
            (Uplink, Layer::Ethernet, Some("vlan"), None, [None; 4]),
            (Uplink, Layer::Ethernet, Some("vxlan"), None, [None; 4]),
            (Uplink, Layer::Ethernet, Some("bridge"), None, [None; 4]),
            (Uplink, Layer::Ip, Some("wireguard"), None, [None; 4]),
            (Pod, Layer::Ethernet, Some("veth"), None, [None; 4]),
            (Pod, Layer::BridgePort, Some("veth"), Some("bridge"), [None; 4]),
        ] {
            let link = Link { kind: kind.map(str::to_owned), port_of: port_of.map(str::to_owned), ..Link::default() };
            for (mode, expected) in [Off, Auto, Native, Generic].into_iter().zip(expected) {
                assert_eq!(xdp(mode, Class { role, layer }, &link), expected, "{mode:?} {role:?} {layer:?} {kind:?}");
            }
        }
    }
}
