//! Which address flows are masqueraded to where they leave through a device.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::network::{Address, Network};
use crate::model::Family;

/// The masquerade addresses of a device, for IPv4 and IPv6:
///
/// 1. its own first one that others can reach, like netfilter's MASQUERADE;
/// 2. else an address of the Node object that some device of this node holds;
/// 3. else the first one of the device that the best default route of the family leads through.
pub(super) fn addresses(
    ifindex: u32,
    network: &Network,
    node_addresses: &BTreeSet<IpAddr>,
) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let v4 = match choose(ifindex, Family::V4, network, node_addresses) {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    };
    let v6 = match choose(ifindex, Family::V6, network, node_addresses) {
        Some(IpAddr::V6(address)) => Some(address),
        _ => None,
    };
    (v4, v6)
}

fn choose(ifindex: u32, family: Family, network: &Network, node_addresses: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let first = |ifindex| best(network.global_addresses(ifindex), family);
    let of_node = || best(network.addresses.iter().filter(|address| node_addresses.contains(&address.ip)), family);
    let by_route = || {
        let routes = network.default_routes.iter().filter(|route| route.family == family);
        routes.map(|route| route.ifindex).find_map(first)
    };
    first(ifindex).or_else(of_node).or_else(by_route)
}

/// The first usable address of a family; one that is deprecated or secondary only if there is no other.
fn best<'a>(addresses: impl Iterator<Item = &'a Address>, family: Family) -> Option<IpAddr> {
    let usable = addresses.filter(|address| Family::of(address.ip) == family && !address.is_tentative);
    // Of equals, `min_by_key` takes the first.
    usable.min_by_key(|address| (address.is_deprecated, address.is_secondary)).map(|address| address.ip)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "addresses in a table")]
mod tests {
    use super::super::network::DefaultRoute;
    use super::*;

    /// Addresses as `IFINDEX ADDRESS [link] [secondary] [deprecated] [tentative]`. The default route of both
    /// families leads through device 2, and the Node object has 192.168.0.5.
    fn chosen(ifindex: u32, addresses_of_node: &[&str]) -> (Option<String>, Option<String>) {
        let parse = |text: &&str| {
            let words: Vec<&str> = text.split(' ').collect();
            Address {
                ifindex: words[0].parse().unwrap(),
                ip: words[1].parse().unwrap(),
                is_global: !words.contains(&"link"),
                is_secondary: words.contains(&"secondary"),
                is_deprecated: words.contains(&"deprecated"),
                is_tentative: words.contains(&"tentative"),
            }
        };
        let default_routes =
            [Family::V4, Family::V6].map(|family| DefaultRoute { family, metric: 0, ifindex: 2 }).into();
        let network =
            Network { addresses: addresses_of_node.iter().map(parse).collect(), default_routes, ..Network::default() };
        let (v4, v6) = addresses(ifindex, &network, &BTreeSet::from(["192.168.0.5".parse().unwrap()]));
        (v4.map(|address| address.to_string()), v6.map(|address| address.to_string()))
    }

    #[test]
    fn own_address_then_the_nodes_then_that_of_the_default_route() {
        for (case, addresses, v4, v6) in [
            ("own", &["3 10.0.0.1", "3 fd00::1"][..], Some("10.0.0.1"), Some("fd00::1")),
            ("the first of several", &["3 10.0.0.1", "3 10.0.0.2"], Some("10.0.0.1"), None),
            ("primary before secondary", &["3 10.0.0.1 secondary", "3 10.0.0.2"], Some("10.0.0.2"), None),
            ("deprecated last", &["3 fd00::1 deprecated", "3 fd00::2 secondary"], None, Some("fd00::2")),
            ("tentative never", &["3 fd00::1 tentative"], None, None),
            ("link-local never", &["3 169.254.1.1 link", "3 fe80::1 link"], None, None),
            ("the Node's", &["2 10.9.0.1", "2 192.168.0.5", "2 fd00::9"], Some("192.168.0.5"), Some("fd00::9")),
            ("the Node's on another device", &["7 192.168.0.5", "2 10.9.0.1"], Some("192.168.0.5"), None),
            ("of the default route", &["2 10.9.0.1", "4 10.8.0.1"], Some("10.9.0.1"), None),
        ] {
            let expected = (v4.map(str::to_owned), v6.map(str::to_owned));
            assert_eq!(chosen(3, addresses), expected, "{case}");
        }
    }
}
