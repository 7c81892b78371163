//! The addresses that NodePorts are answered on.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use super::Family;
use crate::object::{Node, ParseRangeError, parse_range};

/// Some addresses of the node (kube-proxy's `nodePortAddresses`, `pkg/proxy/util/nodeport_addresses.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// `primary`: of each family, the one that the Node object names first. Where it names none, nobody says which
    /// is the primary one, and it is all.
    Primary,
    /// `localhost`: 127.0.0.1 and ::1, for processes of the node itself. Never part of anything else that is not
    /// a range made for them: these addresses cannot be reached from outside.
    Localhost,
    /// `all`: every address of the Node object and of the devices that lead to other nodes.
    All,
    /// Those of all addresses that are in a range. The range of everything is `all`, and without loopback.
    Range(IpNet),
}

impl FromStr for NodePortAddresses {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, ParseRangeError> {
        Ok(match text.trim() {
            "primary" => Self::Primary,
            "localhost" => Self::Localhost,
            "all" => Self::All,
            range => Self::Range(parse_range(range)?),
        })
    }
}

/// The addresses of the node for itself.
pub(super) const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The union of `wanted`. `found` are the addresses on the node's devices.
pub(super) fn node_port_addresses(
    wanted: &[NodePortAddresses],
    node: Option<&Node>,
    found: &BTreeSet<IpAddr>,
) -> BTreeSet<IpAddr> {
    let announced = node.into_iter().flat_map(|node| &node.addresses);
    let all: BTreeSet<IpAddr> = announced.chain(found).filter(|address| is_of_one_host(**address)).copied().collect();
    let primary: &[IpAddr] = node.map(|node| node.primary.as_slice()).unwrap_or_default();
    let names_none_of = |family| !primary.iter().any(|address| Family::of(*address) == family);
    let mut chosen = BTreeSet::new();
    for wanted in wanted {
        match wanted {
            NodePortAddresses::Primary => {
                chosen.extend(primary.iter().filter(|address| is_of_one_host(**address)));
                chosen.extend(all.iter().filter(|address| names_none_of(Family::of(**address))));
            }
            NodePortAddresses::Localhost => chosen.extend(LOOPBACK),
            NodePortAddresses::All => chosen.extend(&all),
            NodePortAddresses::Range(range) => {
                chosen.extend(all.iter().filter(|address| range.contains(*address)));
                chosen.extend(LOOPBACK.iter().filter(|address| range.prefix_len() > 0 && range.contains(*address)));
            }
        }
    }
    chosen
}

/// No loopback (never routed to from outside), nothing that is not one host's.
fn is_of_one_host(address: IpAddr) -> bool {
    !(address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address == IpAddr::V4(Ipv4Addr::BROADCAST))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    /// kube-proxy's cases (`nodeport_addresses_test.go`), on a node with a primary and a second address in each family.
    #[test]
    fn addresses_by_ranges_and_keywords() {
        let addresses =
            |list: &str| -> BTreeSet<IpAddr> { list.split_whitespace().map(|a| a.parse().unwrap()).collect() };
        let node = Node {
            name: "n1".into(),
            addresses: addresses("192.168.0.2 fd00::2"),
            primary: addresses("192.168.0.2 fd00::2").into_iter().collect(),
            zone: None,
            pod_cidrs: Vec::new(),
            taints: BTreeSet::new(),
            is_being_deleted: false,
        };
        let v4_only = Node { primary: vec!["192.168.0.2".parse().unwrap()], ..node.clone() };
        let found = addresses("192.168.0.2 10.0.0.7 127.0.0.1 fd00::2 2001:db8::7 ::1");
        let everything = "10.0.0.7 192.168.0.2 2001:db8::7 fd00::2";
        for (case, wanted, node, expected) in [
            ("primary", "primary", Some(&node), "192.168.0.2 fd00::2"),
            ("primary, one family named", "primary", Some(&v4_only), "192.168.0.2 2001:db8::7 fd00::2"),
            ("primary, no Node", "primary", None, everything),
            ("all", "all", Some(&node), everything),
            ("localhost", "localhost", Some(&node), "127.0.0.1 ::1"),
            ("single", "10.0.0.7/32", Some(&node), "10.0.0.7"),
            ("zero", "0.0.0.0/0", Some(&node), "10.0.0.7 192.168.0.2"),
            ("zero, both families", "0.0.0.0/0 ::/0", Some(&node), everything),
            ("multiple", "10.0.0.0/8 fd00::/8", Some(&node), "10.0.0.7 fd00::2"),
            ("redundant", "0.0.0.0/0 10.0.0.0/8 10.0.0.0/24", Some(&node), "10.0.0.7 192.168.0.2"),
            ("loopback, exactly", "127.0.0.1/32", Some(&node), "127.0.0.1"),
            ("loopback, by range", "127.0.0.0/8 ::1/128", Some(&node), "127.0.0.1 ::1"),
            ("no match", "172.16.0.0/12", Some(&node), ""),
            ("nothing", "", Some(&node), ""),
            ("keyword and range", "primary 10.0.0.0/8", Some(&node), "10.0.0.7 192.168.0.2 fd00::2"),
        ] {
            let wanted: Vec<NodePortAddresses> = wanted.split_whitespace().map(|text| text.parse().unwrap()).collect();
            assert_eq!(node_port_addresses(&wanted, node, &found), addresses(expected), "{case}");
        }
        assert!("secondary".parse::<NodePortAddresses>().is_err());
    }
}
