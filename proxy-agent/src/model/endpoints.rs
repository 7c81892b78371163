//! Which endpoints of a Service port new connections may go to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::DesiredBackend;

/// An endpoint of a Service port, put together from all that the slices say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// It is on this node.
    pub local: bool,
}

impl Candidate {
    /// Merges what two slices say of one endpoint, as happens while it moves from one to the other.
    ///
    /// The outcome is the same in either order: what speaks for the endpoint wins. kube-proxy takes the entry it
    /// meets last and favours local ones (`pkg/proxy/endpointslicecache.go`), which depends on the order.
    pub(super) fn merge(&mut self, other: Self) {
        self.ready |= other.ready;
        self.serving |= other.serving;
        self.terminating &= other.terminating;
        self.local |= other.local;
    }
}

/// The whole rule, after kube-proxy's `CategorizeEndpoints` (`pkg/proxy/topology.go`) and KEP-1669:
///
/// 1. the ready endpoints;
/// 2. if there is none, those that are terminating and still serve, so that a Service whose last pods go away
///    loses no connection while clients still come;
/// 3. otherwise nobody.
///
/// Endpoints of a Service with `publishNotReadyAddresses` come as ready. Not here yet: traffic policies and
/// topology hints.
pub(super) fn usable(candidates: &BTreeMap<SocketAddr, Candidate>) -> BTreeMap<SocketAddr, DesiredBackend> {
    let pick = |rule: fn(&Candidate) -> bool| {
        let chosen = candidates.iter().filter(|(_, candidate)| rule(candidate));
        chosen.map(|(address, candidate)| (*address, DesiredBackend { local: candidate.local })).collect()
    };
    let ready: BTreeMap<_, _> = pick(|candidate| candidate.ready);
    if ready.is_empty() { pick(|candidate| candidate.serving && candidate.terminating) } else { ready }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    /// Endpoints are numbered; each has the letters r(eady), s(erving), t(erminating), l(ocal) that hold.
    fn choose(endpoints: &[&str]) -> Vec<usize> {
        let address = |index: usize| {
            let last = u8::try_from(index).unwrap_or(u8::MAX);
            SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 244, 0, last)), 8080)
        };
        let candidates = endpoints.iter().enumerate().map(|(index, letters)| {
            let has = |letter| letters.contains(letter);
            let candidate = Candidate { ready: has('r'), serving: has('s'), terminating: has('t'), local: has('l') };
            (address(index), candidate)
        });
        let chosen = usable(&candidates.collect());
        (0..endpoints.len()).filter(|index| chosen.contains_key(&address(*index))).collect()
    }

    #[test]
    fn ready_endpoints_else_terminating_ones_that_serve() {
        for (case, endpoints, expected) in [
            ("no endpoint", &[][..], &[][..]),
            ("all ready", &["rs", "rsl"], &[0, 1]),
            ("unready ones are left out", &["rs", "s", ""], &[0]),
            ("terminating ones are left out while another is ready", &["rs", "st", "stl"], &[0]),
            ("only terminating: those that serve", &["st", "t", "stl"], &[0, 2]),
            ("unready but serving and not terminating is no fallback", &["s", "sl"], &[]),
            ("nobody serves", &["t", ""], &[]),
            ("publishNotReadyAddresses: ready and terminating", &["rst", "st"], &[0]),
        ] {
            assert_eq!(choose(endpoints), expected, "{case}");
        }
    }

    #[test]
    fn merging_does_not_depend_on_the_order() {
        let all = (0..16_u8).map(|bits| Candidate {
            ready: bits & 1 != 0,
            serving: bits & 2 != 0,
            terminating: bits & 4 != 0,
            local: bits & 8 != 0,
        });
        for left in all.clone() {
            for right in all.clone() {
                let (mut one, mut other) = (left, right);
                one.merge(right);
                other.merge(left);
                assert_eq!(one, other);
            }
        }
    }
}
