//! The lab's addresses, in one place.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The segment that nodes and the client outside share: the switch's own address.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
/// The same for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 1);
/// All pods of all nodes.
pub const CLUSTER_V4: &str = "10.244.0.0/16";
/// The same for IPv6.
pub const CLUSTER_V6: &str = "fd00:10:244::/48";

/// An address on the shared segment. The decimal digits of `number` end both.
pub fn underlay(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let last = as_hex_digits(number);
    (Ipv4Addr::new(172, 18, 0, number), Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, last))
}

/// The address of node 1 or 2 on the shared segment.
pub fn node(node: u8) -> (Ipv4Addr, Ipv6Addr) {
    underlay(10 + node)
}

/// The address of an API server, 0 or 1, on the shared segment.
pub fn api_server(number: usize) -> (Ipv4Addr, Ipv6Addr) {
    underlay(if number == 0 { 2 } else { 3 })
}

/// The address of the client outside.
pub fn client() -> (Ipv4Addr, Ipv6Addr) {
    underlay(100)
}

/// The address of a second client outside, of which no Service need know.
pub fn stranger() -> (Ipv4Addr, Ipv6Addr) {
    underlay(101)
}

/// A second address of node 1 or 2 on the shared segment, for labs that want one.
pub fn second(node: u8) -> (Ipv4Addr, Ipv6Addr) {
    underlay(20 + node)
}

/// An address in a node's pod range; 0 is the range's own, 1 the bridge's, pods begin at 10.
pub fn pod(node: u8, number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let (third, last) = (as_hex_digits(node), as_hex_digits(number));
    (Ipv4Addr::new(10, 244, node, number), Ipv6Addr::new(0xfd00, 0x10, 0x244, third, 0, 0, 0, last))
}

/// The address of a Service: `10.96.0.<number>` and its like in IPv6.
pub fn service(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 96, 0, number), Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, as_hex_digits(number)))
}

/// 12 as 0x12, so that an IPv6 address reads like its IPv4 sibling.
fn as_hex_digits(number: u8) -> u16 {
    let number = u16::from(number);
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_families_read_alike() {
        let (v4, v6) = super::pod(2, 10);
        assert_eq!((v4.to_string(), v6.to_string()), ("10.244.2.10".into(), "fd00:10:244:2::10".into()));
        assert_eq!(super::client().1.to_string(), "fd00:172:18::100");
    }
}
