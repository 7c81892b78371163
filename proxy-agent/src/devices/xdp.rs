//! The rule that says which devices send packets of clients outside on, past the stack, and which of them by XDP.
//!
//! Uplinks with Ethernet headers that frames really come in by: hardware, bonds, the other end of a pair or a tap. With `auto` XDP is
//! for hardware alone. What comes in by a VLAN, a tunnel or an overlay has come in by another device before; what comes in by a
//! port of a bridge belongs to the bridge.

use proxy_common::maps::DeviceRole;

use super::{Class, Layer, Link};

/// Who takes care of packets from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// tc and the node's stack.
    #[default]
    Off,
    /// tc alone, which sends on what is for other nodes.
    Tc,
    /// XDP on hardware whose driver can do it, tc alone on others.
    Auto,
    /// XDP on all uplinks whose drivers can do it, those between network namespaces among them; tc alone on others.
    Native,
    /// XDP on all uplinks, by the kernel where the driver cannot: slower than tc alone, for trying out.
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

/// Who sends packets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// tc's program.
    Tc,
    /// An XDP program, and tc's what that leaves.
    Xdp(Xdp),
}

/// Applies the rule to a device.
pub(super) fn sender(mode: XdpMode, class: Class, link: &Link) -> Option<Sender> {
    let is_port = link.port_of.as_deref().is_some_and(|kind| kind != "vrf");
    if class.role != DeviceRole::Uplink || class.layer != Layer::Ethernet || is_port {
        return None;
    }
    let kind = link.kind.as_deref();
    if !matches!(kind, None | Some("bond" | "veth" | "tun")) {
        return None;
    }
    match mode {
        XdpMode::Off => None,
        XdpMode::Auto if kind.is_some() => Some(Sender::Tc),
        XdpMode::Tc => Some(Sender::Tc),
        XdpMode::Auto | XdpMode::Native => Some(Sender::Xdp(Xdp::Native)),
        XdpMode::Generic => Some(Sender::Xdp(Xdp::Generic)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        use DeviceRole::{Pod, Uplink};
        use XdpMode::{Auto, Generic, Native, Off, Tc};
        let (tc, native, generic) = (Some(Sender::Tc), Some(Sender::Xdp(Xdp::Native)), Some(Sender::Xdp(Xdp::Generic)));
        for (role, layer, kind, port_of, expected) in [
            (Uplink, Layer::Ethernet, None, None, [None, tc, native, native, generic]),
            (Uplink, Layer::Ethernet, None, Some("vrf"), [None, tc, native, native, generic]),
            (Uplink, Layer::Ethernet, None, Some("bridge"), [None; 5]),
            (Uplink, Layer::Ethernet, Some("bond"), None, [None, tc, tc, native, generic]),
            (Uplink, Layer::Ethernet, Some("veth"), None, [None, tc, tc, native, generic]),
            (Uplink, Layer::Ethernet, Some("vlan"), None, [None; 5]),
            (Uplink, Layer::Ethernet, Some("vxlan"), None, [None; 5]),
            (Uplink, Layer::Ethernet, Some("bridge"), None, [None; 5]),
            (Uplink, Layer::Ip, Some("wireguard"), None, [None; 5]),
            (Pod, Layer::Ethernet, Some("veth"), None, [None; 5]),
            (Pod, Layer::BridgePort, Some("veth"), Some("bridge"), [None; 5]),
        ] {
            let link = Link { kind: kind.map(str::to_owned), port_of: port_of.map(str::to_owned), ..Link::default() };
            for (mode, expected) in [Off, Tc, Auto, Native, Generic].into_iter().zip(expected) {
                assert_eq!(
                    sender(mode, Class { role, layer }, &link),
                    expected,
                    "{mode:?} {role:?} {layer:?} {kind:?}"
                );
            }
        }
    }
}
