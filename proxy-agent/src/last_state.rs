//! The last known state of the cluster, kept in a file: what a node serves after a reboot until the API server answers.
//!
//! While the machine runs, the kernel's maps are that memory, and a fresher one: the file is for where they are empty. It
//! holds the objects as they were parsed, in a format of its own. A file that cannot be read is as good as none.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::object::{EndpointSlice, Kind, Node, Object, Service, ServiceCidr};
use crate::store::Store;

/// Changes with the types of the objects: a file of another format is not read.
const FORMAT: u32 = 2;

/// All objects that were known. Those of a store stay its own: while the file is written, they are in memory once.
#[derive(Debug, Serialize, Deserialize)]
pub struct LastState {
    format: u32,
    /// Seconds since 1970 (UTC).
    written: i64,
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
    nodes: Vec<Node>,
    service_cidrs: Vec<ServiceCidr>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LastStateError {
    /// It cannot be read or written.
    #[error("{action} the last known state, {}", path.display())]
    File {
        /// Reading or writing.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is something else.
    #[error("the last known state, {}, cannot be understood", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// Another version of the agent wrote it.
    #[error("the last known state, {}, has the format {found}, not {FORMAT}", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

impl LastState {
    /// What a store holds.
    pub fn of(store: &Store, now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            written: now.as_second(),
            services: store.services().cloned().collect(),
            slices: store.slices().cloned().collect(),
            nodes: store.nodes().cloned().collect(),
            service_cidrs: store.service_cidrs().cloned().collect(),
        }
    }

    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or is none of ours.
    pub fn read(path: &Path) -> Result<Option<Self>, LastStateError> {
        /// Read first: another format may have other fields.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LastStateError::File { action: "reading", path: path.to_owned(), source }),
        };
        let content = |source| LastStateError::Content { path: path.to_owned(), source };
        let Head { format } = serde_json::from_slice(&text).map_err(content)?;
        if format != FORMAT {
            return Err(LastStateError::Format { path: path.to_owned(), found: format });
        }
        serde_json::from_slice(&text).map_err(content).map(Some)
    }

    /// Writes the file: whoever reads it finds the former state or this one, also after a loss of power.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, path: &Path) -> Result<(), LastStateError> {
        let write = || -> io::Result<()> {
            let draft = path.with_extension("draft");
            let mut file = BufWriter::new(File::create(&draft)?);
            serde_json::to_writer(&mut file, self)?;
            file.flush()?;
            file.get_ref().sync_all()?;
            fs::rename(draft, path)
        };
        write().map_err(|source| LastStateError::File { action: "writing", path: path.to_owned(), source })
    }

    /// When it was written.
    pub fn written(&self) -> Timestamp {
        Timestamp::from_second(self.written).unwrap_or_default()
    }

    /// How many Services there were.
    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// The events that make a store know what it does not know yet. What it has a full list of stays as it is, and so does
    /// each object that it has.
    pub fn missing_in(self, store: &Store) -> Vec<Event> {
        let objects = self.services.into_iter().map(Arc::unwrap_or_clone).map(Object::Service);
        let objects = objects.chain(self.slices.into_iter().map(Arc::unwrap_or_clone).map(Object::EndpointSlice));
        let objects = objects.chain(self.nodes.into_iter().map(Object::Node));
        let objects: Vec<_> = objects.chain(self.service_cidrs.into_iter().map(Object::ServiceCidr)).collect();
        let mut events = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| !store.has_listed(*kind)) {
            let mut all: BTreeSet<_> = store.references(kind).collect();
            for object in objects.iter().filter(|object| object.reference().kind() == kind) {
                if all.insert(object.reference()) {
                    events.push(Event::Apply(Box::new(object.clone())));
                }
            }
            events.push(Event::Listed { kind, objects: all });
        }
        events
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail")]

    use super::*;
    use crate::watch::manifests::read_text;

    const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.1, 'fd00::1']
  externalTrafficPolicy: Local
  healthCheckNodePort: 30345
  sessionAffinity: ClientIP
  loadBalancerSourceRanges: [10.0.0.0/8]
  ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 80, protocol: SCTP}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: a, port: 8080}]
endpoints:
- {addresses: [10.244.0.1], nodeName: n1, hints: {forZones: [{name: z}]}, conditions: {ready: false, serving: true}}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z}}
spec: {podCIDRs: [10.244.0.0/24], taints: [{key: t}]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16]}
";

    fn known() -> Store {
        let (objects, problems) = read_text(OBJECTS);
        assert!(problems.is_empty(), "{problems:?}");
        let mut store = Store::default();
        for object in &objects {
            store.apply(Event::Apply(Box::new(object.clone())));
        }
        for kind in Kind::ALL {
            let of_kind = objects.iter().map(Object::reference).filter(|object| object.kind() == kind).collect();
            store.apply(Event::Listed { kind, objects: of_kind });
        }
        store
    }

    #[test]
    fn what_was_known_is_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert!(LastState::read(&path).unwrap().is_none(), "nothing there is nothing wrong");
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        LastState::of(&known(), now).write(&path).unwrap();
        let state = LastState::read(&path).unwrap().unwrap();
        assert_eq!((state.written(), state.services()), (now, 1));
        let mut store = Store::default();
        for event in state.missing_in(&store) {
            store.apply(event);
        }
        assert_eq!(store, known());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn what_the_api_server_has_said_counts_for_more() {
        let state = || LastState::of(&known(), Timestamp::UNIX_EPOCH);
        // A full list of Services, and one slice of a list that has not ended.
        let mut store = Store::default();
        store.apply(Event::Listed { kind: Kind::Service, objects: BTreeSet::new() });
        let (objects, _) = read_text(&OBJECTS.replace("10.244.0.1]", "10.244.0.2]"));
        let slice = objects.into_iter().find(|object| object.reference().kind() == Kind::EndpointSlice).unwrap();
        store.apply(Event::Apply(Box::new(slice.clone())));
        for event in state().missing_in(&store) {
            store.apply(event);
        }
        assert!(store.is_synced() && store.services().count() == 0 && store.node("n1").is_some());
        assert_eq!(
            store.slices().map(|slice| Object::EndpointSlice(slice.as_ref().clone())).collect::<Vec<_>>(),
            [slice]
        );
        assert!(state().missing_in(&known()).is_empty());
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for (text, said) in [("", "cannot be understood"), ("{\"format\": 99}", "has the format 99, not 2")] {
            fs::write(&path, text).unwrap();
            let error = LastState::read(&path).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
