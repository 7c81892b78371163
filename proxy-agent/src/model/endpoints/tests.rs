//! kube-proxy's table of cases (`pkg/proxy/topology_test.go`).

use std::net::{IpAddr, Ipv4Addr};

use super::*;

fn address(index: usize) -> SocketAddr {
    let last = u8::try_from(index).unwrap_or(u8::MAX);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 244, 0, last)), 80)
}

/// Endpoints are numbered; each has the letters r(eady), s(erving), t(erminating), l(ocal) that hold, and hints as
/// `z=a,b` and `n=1,2`. A ready one serves.
fn candidates<'a>(endpoints: &[&'a str]) -> BTreeMap<SocketAddr, Candidate<'a>> {
    let one = |(index, text): (usize, &&'a str)| {
        let mut candidate = Candidate::default();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(("z", zones)) => candidate.zones = zones.split(',').collect(),
                Some((_, nodes)) => candidate.nodes = nodes.split(',').collect(),
                None => {
                    candidate.ready = word.contains('r');
                    candidate.serving = word.contains('s') || candidate.ready;
                    candidate.terminating = word.contains('t');
                    candidate.local = word.contains('l');
                }
            }
        }
        (address(index), candidate)
    };
    endpoints.iter().enumerate().map(one).collect()
}

/// A Service's frontends, as they decide which policies are in use.
#[derive(Clone, Copy)]
enum Uses {
    Cluster,
    LocalOnly,
    Both,
}
use Uses::{Both, Cluster, LocalOnly};

/// Numbers of the endpoints under the Cluster policy, under the Local policy, and of both together; with a `!` at the
/// end where somebody serves though neither has one. The node is 1, in the zone given.
fn categorize(uses: Uses, zone: Option<&str>, endpoints: &[&str]) -> String {
    let candidates = candidates(endpoints);
    let policies = match uses {
        Cluster => Policies { cluster: true, local: false },
        LocalOnly => Policies { cluster: false, local: true },
        Both => Policies { cluster: true, local: true },
    };
    let chosen = categorize_endpoints(&candidates, policies, Place { node: "1", zone });
    let reachable = chosen.backends(&candidates);
    let numbers = |contains: &dyn Fn(&SocketAddr) -> bool| -> String {
        let numbers = (0..endpoints.len()).filter(|index| contains(&address(*index)));
        numbers.map(|index| index.to_string()).collect()
    };
    let lists = [
        numbers(&|at| chosen.cluster.contains(at)),
        numbers(&|at| chosen.local.contains(at)),
        numbers(&|at| reachable.contains_key(&(at.ip(), at.port()))),
    ];
    let merged: BTreeSet<_> = chosen.cluster.union(&chosen.local).copied().collect();
    assert_eq!(reachable.keys().copied().map(SocketAddr::from).collect::<BTreeSet<_>>(), merged);
    assert!(chosen.any || reachable.is_empty(), "who can be reached serves");
    let elsewhere = if chosen.any && reachable.is_empty() { "!" } else { "" };
    format!("{}|{}|{}{elsewhere}", lists[0], lists[1], lists[2])
}

/// Endpoints in the zones a, b, c, a.
const ABCA: [&str; 4] = ["r z=a", "r z=b", "r z=c", "r z=a"];
/// Endpoints in the zones a, b, c, a, the first two here.
const LOCAL_AB: [&str; 4] = ["rl z=a", "rl z=b", "r z=c", "r z=a"];

#[test]
fn the_cases_of_kube_proxy() {
    let a = Some("a");
    for (case, uses, zone, endpoints, expected) in [
        ("hints for zones", Cluster, a, &ABCA[..], "03||03"),
        ("eTP Local: hints do not matter to Local", Both, a, &LOCAL_AB, "03|01|013"),
        ("iTP Local, with a NodePort: likewise", Both, a, &LOCAL_AB, "03|01|013"),
        ("a node without labels", Cluster, None, &["r z=a"], "0||0"),
        ("a node with an empty zone label", Cluster, None, &["r z=a"], "0||0"),
        ("a node in another zone", Cluster, Some("b"), &["r z=a"], "0||0"),
        ("an unready endpoint is skipped", Cluster, a, &["r z=a", "r z=b", "r z=c", "- z=a"], "0||0"),
        ("only unready ones in the zone", Cluster, a, &["- z=a", "r z=b", "r z=c", "- z=a"], "12||12"),
        ("one without a hint", Cluster, a, &["r z=a", "r z=b", "r", "r z=a"], "0123||0123"),
        (
            "several zones for an endpoint",
            Cluster,
            Some("c"),
            &["r z=a,b,c", "r z=b,c", "r z=b,d", "r z=c"],
            "013||013",
        ),
        ("PreferSameNode", Cluster, a, &["r z=a n=1", "r z=b n=2", "r z=c n=3", "r z=a n=4"], "0||0"),
        (
            "PreferSameNode ignored where one has no hints at all",
            Cluster,
            a,
            &["r z=a n=1", "r", "r z=c n=3", "r z=a n=4"],
            "0123||0123",
        ),
        (
            "PreferSameNode falls to the zone where none is for the node",
            Cluster,
            a,
            &["r z=a n=0", "r z=b n=2", "r z=c n=3", "r z=a n=4"],
            "03||03",
        ),
        (
            "PreferSameNode falls to the zone where one has no hint for a node",
            Cluster,
            a,
            &["r z=a n=1", "r z=b", "r z=c n=3", "r z=a n=4"],
            "03||03",
        ),
        ("topology against locality: both lists", Both, a, &["rl z=a", "rl z=b", "r z=a", "r z=b"], "02|01|012"),
        ("iTP Local: no endpoint", LocalOnly, None, &[], "||"),
        ("iTP Local: all remote", LocalOnly, None, &["r", "r"], "||!"),
        ("iTP Local: all local", LocalOnly, None, &["rl", "rl"], "|01|01"),
        ("iTP Local: some local", LocalOnly, None, &["rl", "r"], "|0|0"),
        ("Cluster: none ready", Cluster, None, &["-", "-"], "||"),
        ("Cluster: some ready", Cluster, None, &["-", "r"], "1||1"),
        ("Cluster: all terminating", Cluster, None, &["stl", "st"], "01||01"),
        ("iTP Local, eTP Cluster: some local", Both, None, &["rl", "r"], "01|0|01"),
        ("iTP Cluster, eTP Local: some local", Both, None, &["rl", "r"], "01|0|01"),
        ("iTP Local, eTP Local: some local", Both, None, &["rl", "r"], "01|0|01"),
        ("iTP Local, eTP Local: all remote", Both, None, &["r", "r"], "01||01"),
        ("iTP Local, eTP Local: all remote and terminating", Both, None, &["st", "st"], "01||01"),
        ("iTP Cluster, eTP Local: with terminating ones", Both, None, &["r", "-l", "stl", "st"], "0|2|02"),
        ("eTP Local of a Service that nobody reaches from outside", Cluster, None, &["r", "rl"], "01||01"),
        ("iTP Local of a Service that nobody reaches from outside", LocalOnly, None, &["r", "rl"], "|1|1"),
        ("no endpoint", Both, a, &[], "||"),
        ("one that is neither ready, serving nor terminating", Both, a, &["-l"], "||"),
        // Beyond kube-proxy's table.
        ("unready but serving and not terminating is no fallback", Both, a, &["s", "sl"], "||"),
        ("terminating and no longer serving", Both, a, &["t", "tl"], "||"),
        ("terminating ones are left out while another is ready", Cluster, None, &["r", "st", "stl"], "0||0"),
        ("publishNotReadyAddresses: ready and terminating", Both, None, &["rstl", "st"], "0|0|0"),
        ("hints of the last resort do not matter", Cluster, a, &["st z=b", "st"], "01||01"),
        ("iTP Local: only terminating here, ready elsewhere", LocalOnly, None, &["r", "stl"], "|1|1"),
        ("iTP Local: only terminating, elsewhere", LocalOnly, None, &["st"], "||!"),
        ("the node wins over the zone", Cluster, a, &["r z=b n=1", "r z=a n=2"], "0||0"),
    ] {
        assert_eq!(categorize(uses, zone, endpoints), expected, "{case}");
    }
}

#[test]
fn merging_does_not_depend_on_the_order() {
    let hints = |bit: u8, name: &'static str| if bit == 0 { BTreeSet::new() } else { BTreeSet::from([name]) };
    let all = (0..64_u8).map(|bits| Candidate {
        ready: bits & 1 != 0,
        serving: bits & 2 != 0,
        terminating: bits & 4 != 0,
        local: bits & 8 != 0,
        zones: hints(bits & 16, "a"),
        nodes: hints(bits & 32, "1"),
    });
    for left in all.clone() {
        for right in all.clone() {
            let (mut one, mut other) = (left.clone(), right.clone());
            one.merge(right);
            other.merge(left.clone());
            assert_eq!(one, other);
        }
    }
}
