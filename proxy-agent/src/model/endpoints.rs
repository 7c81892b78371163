//! Which endpoints of a Service port new connections may go to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use litemap::LiteMap;

use super::{DesiredBackend, Lists};

/// An endpoint of a Service port, put together from all that the slices say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Candidate<'a> {
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// It is on this node.
    pub local: bool,
    /// `hints.forZones`.
    pub zones: BTreeSet<&'a str>,
    /// `hints.forNodes`.
    pub nodes: BTreeSet<&'a str>,
}

impl Candidate<'_> {
    /// Merges what two slices say of one endpoint, as happens while it moves from one to the other.
    ///
    /// The outcome is the same in either order: what speaks for the endpoint wins. kube-proxy takes the entry it
    /// meets last and favours local ones (`pkg/proxy/endpointslicecache.go`), which depends on the order.
    pub(super) fn merge(&mut self, other: Self) {
        self.ready |= other.ready;
        self.serving |= other.serving;
        self.terminating &= other.terminating;
        self.local |= other.local;
        self.zones.extend(other.zones);
        self.nodes.extend(other.nodes);
    }

    /// It goes away and still answers.
    fn is_last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}

/// Where this node is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// Its name.
    pub node: &'a str,
    /// Its zone, if it has one.
    pub zone: Option<&'a str>,
}

/// Which policies the frontends of a Service port use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policies {
    /// Some traffic goes to the endpoints of the Cluster policy.
    pub cluster: bool,
    /// Some traffic goes to the endpoints of the Local policy.
    pub local: bool,
}

/// The endpoints of a Service port that new connections may go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Categorized {
    /// Under the Cluster policy; empty where nothing uses it.
    pub cluster: BTreeSet<SocketAddr>,
    /// Under the Local policy; empty where nothing uses it.
    pub local: BTreeSet<SocketAddr>,
    /// Somebody serves somewhere, perhaps only out of reach of the policies in use.
    pub any: bool,
}

/// The whole rule, after kube-proxy's `CategorizeEndpoints` (`pkg/proxy/topology.go`; KEP-1669 for terminating
/// endpoints, KEP-2086 for internalTrafficPolicy, KEP-2433 and KEP-3015 for hints).
///
/// **Cluster policy**, if anything uses it:
/// 1. the ready endpoints that the topology hints leave, see [`Topology`];
/// 2. if there is none (so no endpoint is ready anywhere), those that are terminating and still serve, whatever
///    their hints, so that a Service whose last pods go away loses no connection while clients still come;
/// 3. otherwise nobody.
///
/// **Local policy**, if anything uses it, and by itself, without regard to hints:
/// 1. the ready endpoints on this node;
/// 2. if there is none, those on this node that are terminating and still serve, though others may be ready elsewhere;
/// 3. otherwise nobody: clients are dropped if there is any endpoint that one of the policies could use somewhere in
///    the cluster, and refused if there is none.
///
/// Not ready but serving and not terminating is nothing. Endpoints of a Service with `publishNotReadyAddresses`
/// come as ready, even while they terminate. No other field of the Service or its pods matters.
pub(super) fn categorize_endpoints(
    candidates: &BTreeMap<SocketAddr, Candidate<'_>>,
    policies: Policies,
    place: Place<'_>,
) -> Categorized {
    let pick = |rule: &dyn Fn(&Candidate<'_>) -> bool| -> BTreeSet<SocketAddr> {
        candidates.iter().filter(|(_, candidate)| rule(candidate)).map(|(address, _)| *address).collect()
    };
    let first_of = |ready: BTreeSet<SocketAddr>, rest: &dyn Fn(&Candidate<'_>) -> bool| {
        if ready.is_empty() { pick(rest) } else { ready }
    };
    let mut categorized = Categorized::default();
    if policies.cluster {
        let topology = Topology::of(candidates.values(), place);
        let ready = pick(&|candidate| candidate.ready && topology.allows(candidate, place));
        categorized.cluster = first_of(ready, &|candidate| candidate.is_last_resort());
    }
    if policies.local {
        let ready = pick(&|candidate| candidate.ready && candidate.local);
        categorized.local = first_of(ready, &|candidate| candidate.is_last_resort() && candidate.local);
    }
    categorized.any = candidates.values().any(|candidate| candidate.ready || candidate.is_last_resort());
    categorized
}

/// How the hints of endpoints narrow the Cluster policy down. Only ready endpoints have a say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    /// Every endpoint has hints for nodes, and one of them for this node (trafficDistribution PreferSameNode).
    SameNode,
    /// Otherwise: every endpoint has hints for zones, and one of them for the zone of this node (PreferSameZone,
    /// PreferClose, topology-aware routing).
    SameZone,
    /// Otherwise: hints are ignored. A missing hint means that the control plane has not seen to all of the
    /// endpoints yet, and none for this place that it did not mean clients here.
    Anywhere,
}

impl Topology {
    fn of<'a>(candidates: impl Iterator<Item = &'a Candidate<'a>> + Clone, place: Place<'_>) -> Self {
        let mut ready = candidates.filter(|candidate| candidate.ready);
        let for_node = |candidate: &Candidate<'_>| Self::SameNode.allows(candidate, place);
        let for_zone = |candidate: &Candidate<'_>| Self::SameZone.allows(candidate, place);
        if ready.clone().all(|candidate| !candidate.nodes.is_empty()) && ready.clone().any(for_node) {
            Self::SameNode
        } else if ready.clone().all(|candidate| !candidate.zones.is_empty()) && ready.any(for_zone) {
            Self::SameZone
        } else {
            Self::Anywhere
        }
    }

    fn allows(self, candidate: &Candidate<'_>, place: Place<'_>) -> bool {
        match self {
            Self::SameNode => candidate.nodes.contains(place.node),
            Self::SameZone => place.zone.is_some_and(|zone| candidate.zones.contains(zone)),
            Self::Anywhere => true,
        }
    }
}

impl Categorized {
    /// The backends: the union of both lists.
    pub(super) fn backends(
        &self,
        candidates: &BTreeMap<SocketAddr, Candidate<'_>>,
    ) -> LiteMap<(IpAddr, u16), DesiredBackend> {
        let backends = candidates.iter().filter_map(|(address, candidate)| {
            let lists = match (self.cluster.contains(address), self.local.contains(address)) {
                (true, true) => Lists::Both,
                (true, false) => Lists::Cluster,
                (false, true) => Lists::Local,
                (false, false) => return None,
            };
            Some(((address.ip(), address.port()), DesiredBackend { local: candidate.local, lists }))
        });
        backends.collect()
    }
}

#[cfg(test)]
mod tests;
