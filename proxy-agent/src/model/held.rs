//! What came out last, and what it takes to bring it up to date where a few Services have changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use proxy_common::maps::FrontendKind;

use super::desired::{Model, Parts, Wanted, external_ips};
use super::health::NoLocal;
use super::slices::Endpoints;
use super::{Desired, DesiredPort, ModelOptions, NodeView, ServicePort};
use crate::object::{ObjectName, PortSpec, Protocol};
use crate::store::{ChangedServices, Store};

/// What the kernel should hold, as it came out last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    desired: Desired,
    /// Every frontend: each has one owner.
    claimed: BTreeSet<(IpAddr, u16, Protocol)>,
    /// Nothing was wrong with any object. So no two Services wanted the same frontend.
    is_flawless: bool,
}

/// What is different in it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Service ports.
    pub ports: BTreeSet<ServicePort>,
    /// ClusterIPs that have come or gone.
    pub cluster_ips: BTreeSet<IpAddr>,
    /// Addresses of load balancers and external IPs that have come or gone.
    pub external_ips: BTreeSet<IpAddr>,
    /// What load balancers are to be told may be different.
    pub health_checks: bool,
}

impl Held {
    /// Keeps what came out, with so many problems.
    pub fn new(desired: Desired, problems: usize) -> Self {
        let keys = |(port, want): (&ServicePort, &DesiredPort)| {
            let protocol = port.protocol;
            want.frontends.keys().map(move |(address, number)| (*address, *number, protocol)).collect::<Vec<_>>()
        };
        let claimed = desired.ports.iter().flat_map(keys).collect();
        Self { desired, claimed, is_flawless: problems == 0 }
    }

    /// What the kernel should hold.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Brings it up to date where nothing has changed since but these Services, at the cost of these Services, however many
    /// there are. `None` where that is not possible, as where two Services want the same frontend: then all has to be
    /// worked out anew, and this is of no use any more.
    pub fn update(
        &mut self,
        store: &Store,
        view: &NodeView,
        options: &ModelOptions,
        services: &ChangedServices,
    ) -> Option<Changes> {
        let mut changes = Changes::default();
        if !services.themselves.is_empty() {
            self.update_services(store, view, options, &services.themselves, &mut changes)?;
        }
        let endpoints = Endpoints::new(store, view, options);
        for name in services.by_slices.difference(&services.themselves) {
            self.update_endpoints(store, &endpoints, name, &mut changes);
        }
        Some(changes)
    }

    /// Who has which frontend does not depend on slices, so the frontends stay.
    fn update_endpoints(&mut self, store: &Store, endpoints: &Endpoints<'_>, name: &ObjectName, changes: &mut Changes) {
        let Some(service) = store.service(name) else { return };
        if let Some(check) = self.desired.health_checks.get_mut(name)
            && let Some(now) = endpoints.health_check(service)
        {
            *check = now;
            changes.health_checks = true;
        }
        let first = ServicePort::first_of(name);
        for (port, want) in self.desired.ports.range_mut(first..).take_while(|(port, _)| port.service == *name) {
            let is_spec = |spec: &&PortSpec| {
                (&spec.name, spec.port.get(), spec.protocol) == (&port.port_name, port.port, port.protocol)
            };
            let Some(spec) = service.ports.iter().find(is_spec) else { continue };
            let (backends, has_endpoints) = endpoints.of(service, spec, port.family, &want.frontends);
            if backends != want.backends || has_endpoints != want.has_endpoints {
                self.desired.no_local.subtract(NoLocal::of_port(port, want));
                (want.backends, want.has_endpoints) = (backends, has_endpoints);
                self.desired.no_local.add(NoLocal::of_port(port, want));
                changes.ports.insert(port.clone());
            }
        }
    }

    /// Takes out what these Services had, and puts in what they have now.
    fn update_services(
        &mut self,
        store: &Store,
        view: &NodeView,
        options: &ModelOptions,
        services: &BTreeSet<ObjectName>,
        changes: &mut Changes,
    ) -> Option<()> {
        // A flaw that is mended may give frontends to any Service.
        if !self.is_flawless {
            return None;
        }
        let mut former = Vec::new();
        for name in services {
            let had = self.take_out(name, changes)?;
            // It may have been one that is left to others.
            if had.is_empty() && (store.service(name).is_none() || !self.desired.left_to_others.is_empty()) {
                return None;
            }
            former.extend(had);
        }
        let parts = Parts::of(store, view, options);
        let mut model = Model::new(&parts, Desired::default());
        let mut wanted = Vec::new();
        for service in services.iter().filter_map(|name| store.service(name)) {
            // Those that are left to others, and those without an address, have rules of their own.
            let is_plain = service.labels.are_for(options.proxy_name.as_deref())
                && !options.skip_services.contains(&service.name)
                && !service.cluster_ips.is_empty()
                && !service.ports.is_empty();
            if !is_plain || service.cluster_ips.iter().any(|address| self.desired.left_to_others.contains(address)) {
                return None;
            }
            changes.cluster_ips.extend(&service.cluster_ips);
            self.desired.cluster_ips.extend(&service.cluster_ips);
            model.service(service, &mut wanted);
        }
        for wanted in &mut wanted {
            self.claim(wanted)?;
        }
        let ports: Vec<_> = wanted.into_iter().filter_map(|wanted| model.serve(wanted)).collect();
        if !model.problems.is_empty() {
            return None;
        }
        // Ranges that are known in full do not depend on the addresses in use there.
        let is_known = |address: &IpAddr| {
            let mut nets = self.desired.service_nets.iter();
            nets.any(|(net, is_complete)| *is_complete && IpNet::contains(net, address))
        };
        if !changes.cluster_ips.iter().all(is_known) {
            return None;
        }
        let Desired { health_checks, .. } = model.desired;
        changes.health_checks |= !health_checks.is_empty();
        self.desired.health_checks.extend(health_checks);
        for (port, want) in ports {
            changes.external_ips.extend(external_ips(&want));
            self.desired.external_ips.extend(external_ips(&want));
            self.desired.no_local.add(NoLocal::of_port(&port, &want));
            changes.ports.insert(port.clone());
            self.desired.ports.insert(port, want);
        }
        for (port, want) in former {
            // What is as it was is no change.
            if self.desired.ports.get(&port) == Some(&want) {
                changes.ports.remove(&port);
            }
        }
        Some(())
    }

    /// Gives a Service port all the frontends that it asks for. `None` if one of them is somebody's already.
    fn claim(&mut self, wanted: &mut Wanted<'_>) -> Option<()> {
        for ((address, number), frontend) in &wanted.asked {
            if !self.claimed.insert((*address, *number, wanted.spec.protocol)) {
                return None;
            }
            wanted.got.insert((*address, *number), *frontend);
        }
        Some(())
    }

    /// Whether there is a frontend with this address.
    fn is_claimed(&self, address: IpAddr) -> bool {
        let of_address = (address, 0, Protocol::Tcp)..=(address, u16::MAX, Protocol::Sctp);
        self.claimed.range(of_address).next().is_some()
    }

    /// Takes out what a Service had. `None` where it is not known: what is left to others has no ports here.
    fn take_out(&mut self, name: &ObjectName, changes: &mut Changes) -> Option<Vec<(ServicePort, DesiredPort)>> {
        changes.health_checks |= self.desired.health_checks.remove(name).is_some();
        let first = ServicePort::first_of(name);
        let ports = self.desired.ports.range(first..).take_while(|(port, _)| port.service == *name);
        let ports: Vec<ServicePort> = ports.map(|(port, _)| port.clone()).collect();
        let (mut former, mut addresses) = (Vec::with_capacity(ports.len()), BTreeSet::new());
        let mut external = BTreeSet::new();
        for port in ports {
            let want = self.desired.ports.remove(&port)?;
            for ((address, number), frontend) in want.frontends.iter() {
                self.claimed.remove(&(*address, *number, port.protocol));
                addresses.extend((frontend.kind == FrontendKind::ClusterIp).then_some(*address));
            }
            external.extend(external_ips(&want));
            self.desired.no_local.subtract(NoLocal::of_port(&port, &want));
            changes.ports.insert(port.clone());
            former.push((port, want));
        }
        if addresses.iter().chain(&external).any(|address| self.is_claimed(*address)) {
            // Somebody else has the same address with other ports.
            return None;
        }
        for address in addresses {
            self.desired.cluster_ips.remove(&address);
            changes.cluster_ips.insert(address);
        }
        for address in external {
            self.desired.external_ips.remove(&address);
            changes.external_ips.insert(address);
        }
        Some(former)
    }
}
