//! What the slices of a Service say about its ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use litemap::LiteMap;

use super::endpoints::{Candidate, Place, categorize_endpoints};
use super::frontends::policies;
use super::{DesiredBackend, DesiredFrontend, Family, HealthCheck, ModelOptions, NodeView};
use crate::object::{EndpointPort, EndpointSlice, PortSpec, Service, ServiceType, TrafficPolicy};
use crate::store::Store;

/// The slices, as they are seen from this node.
pub(super) struct Endpoints<'a> {
    store: &'a Store,
    place: Place<'a>,
    proxy: Option<&'a str>,
}

impl<'a> Endpoints<'a> {
    pub(super) fn new(store: &'a Store, view: &'a NodeView, options: &'a ModelOptions) -> Self {
        let zone = store.node(&view.name).and_then(|node| node.zone.as_deref());
        Self { store, place: Place { node: &view.name, zone }, proxy: options.proxy_name.as_deref() }
    }

    /// The backends of a Service port with these frontends, and whether somebody serves anywhere.
    pub(super) fn of(
        &self,
        service: &Service,
        spec: &PortSpec,
        family: Family,
        frontends: &LiteMap<(IpAddr, u16), DesiredFrontend>,
    ) -> (LiteMap<(IpAddr, u16), DesiredBackend>, bool) {
        let candidates = self.candidates(service, spec, family);
        let categorized = categorize_endpoints(&candidates, policies(frontends.values()), self.place);
        (categorized.backends(&candidates), categorized.any)
    }

    fn slices(&self, service: &Service) -> impl Iterator<Item = &'a EndpointSlice> {
        self.store.slices_of(&service.name).filter(|slice| slice.labels.are_for(self.proxy))
    }

    /// The endpoints of a Service port, from all of its slices. A slice's port belongs to the Service's port of
    /// the same name and protocol, with a number that may be another one in each slice.
    fn candidates(&self, service: &Service, spec: &PortSpec, family: Family) -> BTreeMap<SocketAddr, Candidate<'a>> {
        let mut candidates: BTreeMap<SocketAddr, Candidate<'a>> = BTreeMap::new();
        for slice in self.slices(service) {
            for port in slice.ports.iter().filter(|port| is_port(port, spec)) {
                for endpoint in slice.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family) {
                    let hints = endpoint.hints.as_deref();
                    let candidate = Candidate {
                        ready: endpoint.ready,
                        serving: endpoint.serving,
                        terminating: endpoint.terminating,
                        local: endpoint.node.as_deref() == Some(self.place.node),
                        zones: hints.into_iter().flat_map(|hints| &hints.zones).map(|zone| &**zone).collect(),
                        nodes: hints.into_iter().flat_map(|hints| &hints.nodes).map(|node| &**node).collect(),
                    };
                    let address = SocketAddr::new(endpoint.address, port.port.get());
                    match candidates.entry(address) {
                        std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(candidate)),
                        std::collections::btree_map::Entry::Occupied(mut entry) => entry.get_mut().merge(candidate),
                    }
                }
            }
        }
        candidates
    }

    /// What a load balancer that asks this node is to hear. Only ready endpoints count, so that it stops sending
    /// clients here while the last ones terminate, though those who come are still served (KEP-1669).
    pub(super) fn health_check(&self, service: &Service) -> Option<HealthCheck> {
        let is_asked = service.service_type == ServiceType::LoadBalancer
            && service.external_policy == TrafficPolicy::Local
            && !service.cluster_ips.is_empty();
        let port = service.health_check_node_port.filter(|_| is_asked)?;
        let mut local = BTreeSet::new();
        for slice in self.slices(service) {
            if !slice.ports.iter().any(|port| service.ports.iter().any(|spec| is_port(port, spec))) {
                continue;
            }
            let here = slice.endpoints.iter().filter(|endpoint| endpoint.node.as_deref() == Some(self.place.node));
            local.extend(here.filter(|endpoint| endpoint.ready).map(|endpoint| endpoint.address));
        }
        Some(HealthCheck { port, local_endpoints: local.len() })
    }
}

fn is_port(port: &EndpointPort, spec: &PortSpec) -> bool {
    port.name == spec.name && port.protocol == spec.protocol
}
