//! From objects to frontends and backends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use proxy_common::maps::FrontendKind;

use super::endpoints::{Candidate, usable};
use super::{Desired, DesiredPort, Family, NodeView, ServicePort};
use crate::object::{ObjectRef, PortSpec, Problem, Protocol, Service, ServiceType};
use crate::store::Store;

/// Works out what the kernel should hold on this node, and what is wrong with the objects.
///
/// `None` before Services and EndpointSlices have both been listed in full: until then the truth is what the
/// kernel holds. The problems come in the order of the objects' names, none twice.
pub fn desired(store: &Store, node: &NodeView) -> Option<(Desired, Vec<Problem>)> {
    if !store.is_synced() {
        return None;
    }
    let mut model = Model {
        store,
        node_name: &node.name,
        proxy_name: node.proxy_name.as_deref(),
        node_addresses: node_addresses(store, node),
        claims: HashMap::new(),
        desired: Desired::default(),
        problems: Vec::new(),
    };
    let proxy = node.proxy_name.as_deref();
    for service in store.services().filter(|service| service.labels.are_for(proxy)) {
        model.service(service);
    }
    for slice in store.slices().filter(|slice| slice.labels.are_for(proxy) && slice.service.is_none()) {
        let message = "has no label kubernetes.io/service-name, so it belongs to no Service: ignored";
        model.problems.push(Problem::of(ObjectRef::EndpointSlice(slice.name.clone()), message));
    }
    Some((model.desired, model.problems))
}

/// The addresses that NodePorts are answered on: no loopback (never routed to from outside), nothing that is
/// not one host's.
fn node_addresses(store: &Store, node: &NodeView) -> BTreeSet<IpAddr> {
    let announced = store.node(&node.name).into_iter().flat_map(|node| &node.addresses);
    let one_host = |address: &&IpAddr| {
        !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
            && **address != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
    };
    announced.chain(&node.addresses).filter(one_host).copied().collect()
}

struct Model<'a> {
    store: &'a Store,
    node_name: &'a str,
    proxy_name: Option<&'a str>,
    node_addresses: BTreeSet<IpAddr>,
    /// Who has each frontend already. Services come in the order of their names, so the winner of a dispute does
    /// not depend on the order of events.
    claims: HashMap<(IpAddr, u16, Protocol), ServicePort>,
    desired: Desired,
    problems: Vec<Problem>,
}

impl Model<'_> {
    fn problem(&mut self, service: &Service, message: String) {
        self.problems.push(Problem::of(ObjectRef::Service(service.name.clone()), message));
    }

    fn service(&mut self, service: &Service) {
        if service.headless || service.service_type == ServiceType::ExternalName {
            return;
        }
        if service.cluster_ips.is_empty() {
            self.problem(service, "spec.clusterIP: no address is allocated yet: the Service cannot be reached".into());
        }
        for (index, port) in service.ports.iter().enumerate() {
            if port.protocol == Protocol::Sctp {
                let message = format!("spec.ports[{index}].protocol: SCTP is not supported yet: the port is ignored");
                self.problem(service, message);
                continue;
            }
            for address in &service.cluster_ips {
                self.port(service, port, *address);
            }
        }
    }

    fn port(&mut self, service: &Service, spec: &PortSpec, cluster_ip: IpAddr) {
        let family = Family::of(cluster_ip);
        let port = ServicePort {
            service: service.name.clone(),
            port_name: spec.name.clone(),
            port: spec.port.get(),
            protocol: spec.protocol,
            family,
        };
        let mut wanted = vec![(cluster_ip, spec.port.get(), FrontendKind::ClusterIp)];
        if let (ServiceType::NodePort | ServiceType::LoadBalancer, Some(node_port)) =
            (service.service_type, spec.node_port)
        {
            let addresses = self.node_addresses.iter().filter(|address| Family::of(**address) == family);
            wanted.extend(addresses.map(|address| (*address, node_port.get(), FrontendKind::NodePort)));
        }

        let mut frontends = BTreeMap::new();
        let mut lost: BTreeMap<(FrontendKind, u16), ServicePort> = BTreeMap::new();
        for (address, number, kind) in wanted {
            let claim = (address, number, spec.protocol);
            if let Some(winner) = self.claims.get(&claim) {
                // One line for a NodePort, not one for each address of the node.
                if lost.insert((kind, number), winner.clone()).is_none() {
                    let winner = winner.clone();
                    let message = format!(
                        "{} {} is already taken by Service {winner}: ignored here",
                        kind.name(),
                        match kind {
                            FrontendKind::NodePort => format!("{number}/{}", spec.protocol),
                            _ => format!("{}/{}", SocketAddr::new(address, number), spec.protocol),
                        }
                    );
                    self.problem(service, message);
                }
                continue;
            }
            self.claims.insert(claim, port.clone());
            frontends.insert((address, number), kind);
        }
        if !frontends.is_empty() {
            let backends = usable(&self.candidates(service, spec, family));
            self.desired.ports.insert(port, DesiredPort { frontends, backends });
        }
    }

    /// The endpoints of a Service port, from all of its slices. A slice's port belongs to the Service's port of
    /// the same name and protocol, with a number that may be another one in each slice.
    fn candidates(&self, service: &Service, spec: &PortSpec, family: Family) -> BTreeMap<SocketAddr, Candidate> {
        let mut candidates: BTreeMap<SocketAddr, Candidate> = BTreeMap::new();
        for slice in self.store.slices_of(&service.name).filter(|slice| slice.labels.are_for(self.proxy_name)) {
            let matching = |port: &&_| is_port(port, spec);
            for port in slice.ports.iter().filter(matching) {
                for endpoint in slice.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family) {
                    let candidate = Candidate {
                        ready: endpoint.ready,
                        serving: endpoint.serving,
                        terminating: endpoint.terminating,
                        local: endpoint.node.as_deref() == Some(self.node_name),
                    };
                    let address = SocketAddr::new(endpoint.address, port.port.get());
                    candidates.entry(address).and_modify(|known| known.merge(candidate)).or_insert(candidate);
                }
            }
        }
        candidates
    }
}

fn is_port(port: &crate::object::EndpointPort, spec: &PortSpec) -> bool {
    port.name == spec.name && port.protocol == spec.protocol
}
