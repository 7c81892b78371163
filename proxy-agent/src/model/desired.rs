//! From objects to frontends and backends.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use litemap::LiteMap;
use proxy_common::maps::FrontendKind;

use super::frontends::{Asked, Ground, frontends, source_ranges};
use super::health::NoLocal;
use super::node_ports::{LOOPBACK, node_port_addresses};
use super::service_nets::{overlap_message, overlaps, service_nets};
use super::slices::Endpoints;
use super::{Desired, DesiredFrontend, DesiredPort, Family, ModelOptions, NodeView, ServicePort};
use crate::object::{Node, ObjectRef, PortSpec, Problem, Protocol, Service, ServiceType};
use crate::store::Store;

/// Works out what the kernel should hold on this node, and what is wrong with the objects.
///
/// `None` before Services and EndpointSlices have both been listed in full: until then the truth is what the
/// kernel holds. The problems come in the order of the objects' names, none twice.
pub fn desired(store: &Store, view: &NodeView, options: &ModelOptions) -> Option<(Desired, Vec<Problem>)> {
    if !store.is_synced() {
        return None;
    }
    let node = store.node(&view.name);
    let parts = Parts::of(store, view, options);
    let local_ranges = parts.local_ranges.clone();
    let node_addresses = own_addresses(node, view);
    let mut model = Model::new(&parts, Desired { local_ranges, node_addresses, ..Desired::default() });
    let proxy = options.proxy_name.as_deref();
    let has_addresses =
        |service: &&Arc<Service>| !service.headless && service.service_type != ServiceType::ExternalName;
    for service in store.services().filter(has_addresses) {
        let is_ours = service.labels.are_for(proxy) && !options.skip_services.contains(&service.name);
        let Desired { cluster_ips, left_to_others, .. } = &mut model.desired;
        if is_ours { cluster_ips } else { left_to_others }.extend(&service.cluster_ips);
    }
    // Beside another proxy only a part of the Services is ours to see.
    let mut named = options.service_cidrs.clone();
    named.extend(store.service_cidrs().flat_map(|cidr| &cidr.ranges).map(IpNet::trunc));
    model.desired.service_nets = service_nets(&named, &model.desired.cluster_ips, options.proxy_name.is_none());
    let mut pods = model.desired.local_ranges.clone();
    pods.extend(node.into_iter().flat_map(|node| &node.pod_cidrs));
    model.desired.overlaps = overlaps(&named, &pods, &model.desired.node_addresses, &view.routes);
    for (range, with) in &model.desired.overlaps {
        // What seems to be nobody's may be a pod's: it passes.
        let ranges =
            model.desired.service_nets.iter_mut().filter(|(net, _)| net.contains(range) || range.contains(*net));
        ranges.for_each(|(_, is_complete)| *is_complete = false);
        let message = overlap_message(range, with);
        model.problems.push(Problem { place: None, object: None, message });
    }
    let mut wanted = Vec::new();
    let ours =
        |service: &&Arc<Service>| service.labels.are_for(proxy) && !options.skip_services.contains(&service.name);
    for service in store.services().filter(ours) {
        model.service(service, &mut wanted);
    }
    model.claim(&mut wanted);
    model.desired.ports = wanted.into_iter().filter_map(|wanted| model.serve(wanted)).collect();
    model.desired.external_ips = model.desired.ports.values().flat_map(external_ips).collect();
    for slice in store.slices().filter(|slice| slice.labels.are_for(proxy) && slice.service.is_none()) {
        let message = "has no label kubernetes.io/service-name, so it belongs to no Service: ignored";
        model.problems.push(Problem::of(ObjectRef::EndpointSlice(slice.name.clone()), message));
    }
    // Frontends are claimed kind by kind.
    model.problems.sort_by(|one, other| one.object.cmp(&other.object));
    model.desired.no_local = NoLocal::of(&model.desired.ports);
    Some((model.desired, model.problems))
}

/// The addresses of load balancers and the external IPs that a Service port has.
pub(super) fn external_ips(want: &DesiredPort) -> impl Iterator<Item = IpAddr> {
    let is_external = |kind| matches!(kind, FrontendKind::LoadBalancer | FrontendKind::ExternalIp);
    want.frontends.iter().filter(move |(_, rule)| is_external(rule.kind)).map(|((address, _), _)| *address)
}

/// The addresses by which the node itself is known as a client. No loopback: it never leaves the node.
fn own_addresses(node: Option<&Node>, view: &NodeView) -> BTreeSet<IpAddr> {
    let announced = node.into_iter().flat_map(|node| &node.addresses);
    let found = view.own.iter().chain(&view.addresses);
    announced.chain(found).filter(|address| !address.is_loopback()).copied().collect()
}

/// A Service port and the frontends that it asks for, or has got.
pub(super) struct Wanted<'a> {
    service: &'a Service,
    pub(super) spec: &'a PortSpec,
    port: ServicePort,
    pub(super) asked: Vec<Asked>,
    pub(super) got: LiteMap<(IpAddr, u16), DesiredFrontend>,
}

/// What is the same for all Services.
pub(super) struct Parts<'a> {
    store: &'a Store,
    view: &'a NodeView,
    options: &'a ModelOptions,
    /// Where NodePorts are answered.
    node_addresses: BTreeSet<IpAddr>,
    primary: &'a [IpAddr],
    detects: [bool; 2],
    /// The ranges by which clients on this node are known.
    local_ranges: BTreeSet<IpNet>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(store: &'a Store, view: &'a NodeView, options: &'a ModelOptions) -> Self {
        let node = store.node(&view.name);
        let local_ranges = options.detect_local.ranges(node);
        let detects = [Family::V4, Family::V6].map(|family| options.detect_local.works_for(family, &local_ranges));
        let mut node_addresses = node_port_addresses(&options.node_port_addresses, node, &view.addresses);
        if options.localhost_node_ports {
            node_addresses.extend(LOOPBACK);
        }
        let primary = node.map(|node| node.primary.as_slice()).unwrap_or_default();
        Self { store, view, options, node_addresses, primary, detects, local_ranges }
    }
}

pub(super) struct Model<'a> {
    endpoints: Endpoints<'a>,
    ground: Ground<'a>,
    /// Who has each frontend already.
    claims: HashMap<(IpAddr, u16, Protocol), ServicePort>,
    pub(super) desired: Desired,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Model<'a> {
    /// With nothing of any Service yet.
    pub(super) fn new(parts: &'a Parts<'a>, desired: Desired) -> Self {
        let Parts { store, view, options, node_addresses, primary, detects, .. } = parts;
        Self {
            endpoints: Endpoints::new(store, view, options),
            ground: Ground { options, node_addresses, primary, detects: *detects },
            claims: HashMap::new(),
            desired,
            problems: Vec::new(),
        }
    }

    fn problem(&mut self, service: &Service, message: String) {
        self.problems.push(Problem::of(ObjectRef::Service(service.name.clone()), message));
    }

    /// Adds what a Service asks for.
    pub(super) fn service(&mut self, service: &'a Service, wanted: &mut Vec<Wanted<'a>>) {
        if service.headless || service.service_type == ServiceType::ExternalName {
            return;
        }
        if service.cluster_ips.is_empty() {
            self.problem(service, "spec.clusterIP: no address is allocated yet: the Service cannot be reached".into());
        }
        self.health_check(service);
        for spec in &service.ports {
            for address in &service.cluster_ips {
                let port = ServicePort {
                    service: service.name.clone(),
                    port_name: spec.name.clone(),
                    port: spec.port.get(),
                    protocol: spec.protocol,
                    family: Family::of(*address),
                };
                let asked = frontends(&self.ground, service, spec, *address);
                wanted.push(Wanted { service, spec, port, asked, got: LiteMap::new() });
            }
        }
    }

    /// Gives each frontend to one Service port: to the one that has it as its ClusterIP, then to load balancers,
    /// then to external IPs, which anybody may write into a Service, then to NodePorts; among equals to the first by
    /// name. So the outcome does not depend on the order of events, and no Service loses its ClusterIP to another.
    fn claim(&mut self, wanted: &mut [Wanted<'a>]) {
        let order =
            [FrontendKind::ClusterIp, FrontendKind::LoadBalancer, FrontendKind::ExternalIp, FrontendKind::NodePort];
        for kind in order {
            for Wanted { service, spec, port, asked, got } in &mut *wanted {
                let mut lost = BTreeSet::new();
                for ((address, number), frontend) in asked.iter().filter(|(_, frontend)| frontend.kind == kind) {
                    let winner = self.claims.entry((*address, *number, spec.protocol)).or_insert_with(|| port.clone());
                    if winner == port {
                        // What it has as another kind already is no loss.
                        got.entry((*address, *number)).or_insert(*frontend);
                        continue;
                    }
                    // One line for a NodePort, not one for each address of the node.
                    if kind == FrontendKind::NodePort && !lost.insert(*number) {
                        continue;
                    }
                    let what = match kind {
                        FrontendKind::NodePort => format!("{number}/{}", spec.protocol),
                        _ => format!("{}/{}", SocketAddr::new(*address, *number), spec.protocol),
                    };
                    let message = format!("{} {what} is already taken by Service {winner}: ignored here", kind.name());
                    self.problems.push(Problem::of(ObjectRef::Service(service.name.clone()), message));
                }
            }
        }
    }

    /// Finds the backends of a Service port. `None` where it has no frontend.
    pub(super) fn serve(&self, wanted: Wanted<'_>) -> Option<(ServicePort, DesiredPort)> {
        let Wanted { service, spec, port, asked: _, got: frontends } = wanted;
        if frontends.is_empty() {
            return None;
        }
        let (backends, has_endpoints) = self.endpoints.of(service, spec, port.family, &frontends);
        let source_ranges = if frontends.values().any(|frontend| frontend.guarded) {
            source_ranges(&self.ground, service, port.family)
        } else {
            BTreeSet::new()
        };
        let desired = DesiredPort { backends, has_endpoints, affinity: service.affinity, source_ranges, frontends };
        Some((port, desired))
    }

    fn health_check(&mut self, service: &Service) {
        if let Some(check) = self.endpoints.health_check(service) {
            self.desired.health_checks.insert(service.name.clone(), check);
        }
    }
}
