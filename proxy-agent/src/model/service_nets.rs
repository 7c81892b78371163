//! The ranges that ClusterIPs are from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proxy_common::maps::SERVICE_NETS;

use super::Family;

/// The ranges to look for addresses of Services in, and whether every one there is known.
///
/// Those that the cluster or the operator names are known in full where `sees_all`; what is more than there is room for, and
/// ClusterIPs that are in none of them (as where nobody names any), lie in one more range of each family: the smallest that
/// has them all, of which nothing is said of other addresses.
pub(super) fn service_nets(named: &BTreeSet<IpNet>, used: &BTreeSet<IpAddr>, sees_all: bool) -> BTreeMap<IpNet, bool> {
    let mut nets = BTreeMap::new();
    for family in [Family::V4, Family::V6] {
        let of_family = named.iter().filter(|net| Family::of(net.addr()) == family).copied();
        let mut whole = IpNet::aggregate(&of_family.collect());
        let rest = whole.split_off(whole.len().min(SERVICE_NETS as usize - 1));
        let is_outside = |address: &&IpAddr| !whole.iter().any(|net| net.contains(*address));
        let outside = used.iter().filter(|address| Family::of(**address) == family).filter(is_outside);
        let ends = rest.iter().flat_map(|net| [net.network(), net.broadcast()]);
        let hull = hull(outside.copied().chain(ends));
        nets.extend(whole.into_iter().map(|net| (net, sees_all)));
        if let Some(hull) = hull {
            nets.entry(hull).or_insert(false);
        }
    }
    nets
}

/// How many of one kind are named where there are many.
const NAMED: usize = 3;

/// Ranges of ClusterIPs that others have addresses of, too: pods, the node, or what a route leads to. With it whom, in words.
/// What is nobody's in there must not be taken for a Service's.
///
/// A route that is wider than the range says no more about it than a default route.
pub(super) fn overlaps(
    named: &BTreeSet<IpNet>,
    pods: &BTreeSet<IpNet>,
    node: &BTreeSet<IpAddr>,
    routes: &BTreeSet<IpNet>,
) -> BTreeMap<IpNet, String> {
    let meet = |one: &IpNet, other: &IpNet| one.contains(other) || other.contains(one);
    let with = |net: &IpNet| {
        let pods = pods.iter().filter(|pods| meet(net, pods)).map(ToString::to_string);
        let node = node.iter().filter(|address| net.contains(*address)).map(ToString::to_string);
        let routes = routes.iter().filter(|route| net.contains(*route)).map(ToString::to_string);
        [in_words("the pods' range", pods), in_words("this node's address", node), in_words("the route to", routes)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ")
    };
    named.iter().map(|net| (*net, with(net))).filter(|(_, with)| !with.is_empty()).collect()
}

/// The first few of them, each with a word for what it is, and how many more there are.
fn in_words(what: &str, all: impl Iterator<Item = String>) -> Option<String> {
    let all: Vec<String> = all.collect();
    let mut words: Vec<String> = all.iter().take(NAMED).map(|one| format!("{what} {one}")).collect();
    if all.len() > NAMED {
        words.push(format!("{} more", all.len() - NAMED));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// What is to be said about a range of ClusterIPs that overlaps with others.
pub fn overlap_message(range: &IpNet, with: &str) -> String {
    format!(
        "the range of ClusterIPs {range} overlaps with {with}: Services and what has these addresses may get each \
         other's packets; give the cluster ranges that do not overlap"
    )
}

/// The smallest range that has all of these addresses, which are of one family.
fn hull(addresses: impl Iterator<Item = IpAddr>) -> Option<IpNet> {
    addresses.map(IpNet::from).reduce(|one, other| {
        let (prefix, is_v4) = match (one.addr(), other.addr()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => ((u32::from(a) ^ u32::from(b)).leading_zeros(), true),
            (IpAddr::V6(a), IpAddr::V6(b)) => ((u128::from(a) ^ u128::from(b)).leading_zeros(), false),
            _ => (0, false),
        };
        let prefix = u8::try_from(prefix).unwrap_or(0).min(one.prefix_len()).min(other.prefix_len());
        let everything = if is_v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        IpNet::new(one.addr(), prefix).map_or_else(|_| IpNet::from(everything), |net| net.trunc())
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_pods_the_node_or_routes_use_too() {
        fn set<T: std::str::FromStr + Ord>(words: &str) -> BTreeSet<T> {
            words.split_whitespace().filter_map(|word| word.parse().ok()).collect()
        }
        let named = set("10.96.0.0/12 10.128.0.0/16 10.200.0.0/24 fd00::/108");
        let pods = set("10.100.3.0/24 fd00::/64 10.244.0.0/16");
        let node = set("10.128.0.7 192.168.0.1");
        // Wider than a range: a way to anywhere.
        let wider = "10.0.0.0/8 fd00::/16";
        let routes = set(&format!("{wider} 10.200.0.0/24 10.200.0.1/32 10.200.0.2/32 10.200.0.3/32 10.200.0.4/32"));
        let show = |(net, with): (IpNet, String)| format!("{net}: {with}");
        assert_eq!(
            overlaps(&named, &pods, &node, &routes).into_iter().map(show).collect::<Vec<_>>(),
            [
                "10.96.0.0/12: the pods' range 10.100.3.0/24",
                "10.128.0.0/16: this node's address 10.128.0.7",
                "10.200.0.0/24: the route to 10.200.0.0/24, the route to 10.200.0.1/32, the route to 10.200.0.2/32, 2 more",
                "fd00::/108: the pods' range fd00::/64",
            ]
        );
        assert!(overlaps(&named, &BTreeSet::new(), &BTreeSet::new(), &set(wider)).is_empty());
    }

    #[test]
    fn ranges_that_are_named_and_addresses_that_are_in_none() {
        let many = "10.0.0.0/16 10.2.0.0/16 10.4.0.0/16 10.6.0.0/16 10.8.0.0/16 10.10.0.0/16 10.12.0.0/16 10.14.0.0/16";
        for (named, used, expected) in [
            ("", "", ""),
            ("10.96.0.0/12 fd00:96::/108", "10.96.0.1 fd00:96::1", "10.96.0.0/12! fd00:96::/108!"),
            ("10.96.0.0/12", "10.96.0.1 fd00:96::1", "10.96.0.0/12! fd00:96::1/128"),
            ("", "10.96.0.1 10.96.5.3 10.96.0.10", "10.96.0.0/21"),
            ("10.96.0.0/12", "10.244.0.1 10.244.0.2", "10.96.0.0/12! 10.244.0.0/30"),
            ("10.96.0.0/16 10.97.0.0/16", "", "10.96.0.0/15!"),
            ("", "10.0.0.1 192.168.0.1", "0.0.0.0/0"),
            (
                many,
                "",
                "10.0.0.0/16! 10.2.0.0/16! 10.4.0.0/16! 10.6.0.0/16! 10.8.0.0/16! 10.10.0.0/16! 10.12.0.0/16! 10.14.0.0/16",
            ),
        ] {
            let named = named.split_whitespace().map(|net| net.parse().unwrap()).collect();
            let used = used.split_whitespace().map(|address| address.parse().unwrap()).collect();
            let show = |(net, is_complete): (IpNet, bool)| format!("{net}{}", if is_complete { "!" } else { "" });
            let nets: BTreeSet<String> = service_nets(&named, &used, true).into_iter().map(show).collect();
            assert_eq!(nets, expected.split_whitespace().map(str::to_owned).collect(), "{named:?} {used:?}");
            assert!(service_nets(&named, &used, false).values().all(|is_complete| !is_complete));
        }
    }
}
