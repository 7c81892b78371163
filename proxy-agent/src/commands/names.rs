//! The names of Service ports, and which of them were asked for.

use std::collections::BTreeMap;

use proxy_common::addr::Ipv4;
use proxy_common::maps::{Flow, ServiceName};
use serde::Serialize;

use crate::model::ServicePort;

/// The Service port that something belongs to, as it is printed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Owner {
    /// `default/web:http`, `#12` where the maps have no name for id 12, `-` for what is of no Service.
    pub service: String,
    /// `metadata.namespace`; empty where the maps have no name.
    pub namespace: String,
    /// `metadata.name`; empty where the maps have no name.
    pub name: String,
    /// `spec.ports[].name`.
    pub port_name: String,
    /// Its id.
    pub service_id: u32,
}

/// The names of Service ports, and which of them were asked for.
#[derive(Debug, Default)]
pub(super) struct Names {
    ports: BTreeMap<u32, Option<ServicePort>>,
    namespace: Option<String>,
    name: Option<String>,
}

impl Names {
    /// `name` may be NAMESPACE/NAME.
    pub(super) fn new(entries: BTreeMap<u32, ServiceName>, namespace: Option<&str>, name: Option<&str>) -> Self {
        let (namespace, name) = match name.and_then(|name| name.split_once('/')) {
            Some((namespace, name)) => (Some(namespace), Some(name)),
            None => (namespace, name),
        };
        let ports = entries.into_iter().map(|(id, name)| (id, ServicePort::try_from(&name).ok())).collect();
        Self { ports, namespace: namespace.map(str::to_owned), name: name.map(str::to_owned) }
    }

    /// Whether only some Services were asked for.
    pub(super) fn is_filtered(&self) -> bool {
        self.namespace.is_some() || self.name.is_some()
    }

    /// The Service ports that were asked for.
    pub(super) fn ports(&self) -> impl Iterator<Item = (Owner, &ServicePort)> {
        self.ports.iter().filter_map(|(id, port)| Some((self.owner(*id)?, port.as_ref()?)))
    }

    /// The Service port of an id. `None` if it was not asked for.
    pub(super) fn owner(&self, id: u32) -> Option<Owner> {
        let Some(Some(port)) = self.ports.get(&id) else {
            return (!self.is_filtered()).then(|| Owner {
                service: if id == Flow::<Ipv4>::OF_NO_SERVICE { "-".to_owned() } else { format!("#{id}") },
                namespace: String::new(),
                name: String::new(),
                port_name: String::new(),
                service_id: id,
            });
        };
        let fits = |wanted: &Option<String>, has: &str| wanted.as_ref().is_none_or(|wanted| wanted == has);
        let is_wanted = fits(&self.namespace, &port.service.namespace) && fits(&self.name, &port.service.name);
        is_wanted.then(|| Owner {
            service: port.to_string(),
            namespace: port.service.namespace.to_string(),
            name: port.service.name.to_string(),
            port_name: port.port_name.to_string(),
            service_id: id,
        })
    }
}

/// TCP, UDP, or the number of another protocol.
pub(super) fn protocol(number: u8) -> String {
    crate::object::Protocol::from_number(number).map_or_else(|| number.to_string(), |known| known.to_string())
}
