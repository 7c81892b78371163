//! From the text of a file to objects.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use serde::de::DeserializeOwned;

use super::tree::Tree;
use crate::object::{EndpointSlice, Kind, Node, Object, ObjectError, ObjectName, ObjectRef, Service, ServiceCidr};

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    /// The objects that could be read, in their order.
    pub objects: Vec<Found>,
    /// What could not.
    pub broken: Vec<Broken>,
    /// Kinds that are not for us, with their lines.
    pub ignored: Vec<(usize, String)>,
}

/// An object and where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub line: usize,
    pub object: Object,
}

/// A document, or an object in it, that could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Where it is wrong.
    pub line: usize,
    /// Which object it is. `None` where not even that could be read.
    pub object: Option<ObjectRef>,
    /// What is wrong.
    pub message: String,
}

/// Reads a whole file. Each document stands for itself: a broken one does not take others with it.
pub(super) fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (before, document) in documents(text) {
        match Tree::parse(&document) {
            Ok(tree) => parsed.document(&tree, before),
            Err(error) => {
                let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
                let message = format!("not valid YAML: {}", without_place(&error.to_string()));
                parsed.broken.push(Broken { line: before + line.max(1), object: None, message });
            }
        }
    }
    parsed
}

/// Splits at the lines that begin with `---`, and drops what holds comments only. With each document comes the
/// number of lines before it.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(0, String::new())];
    for (number, line) in text.lines().enumerate() {
        let after_marker = line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if after_marker.is_some() {
            documents.push((number, String::new()));
        }
        if let Some((_, document)) = documents.last_mut() {
            // In place of the marker and of directives, spaces: lines and columns stay what they are.
            match after_marker {
                Some(rest) => {
                    document.push_str("   ");
                    document.push_str(rest);
                }
                None if line.starts_with('%') || line == "..." => {}
                None => document.push_str(line),
            }
            document.push('\n');
        }
    }
    let has_content = |line: &str| !matches!(line.trim_start().as_bytes().first(), None | Some(b'#'));
    documents.retain(|(_, document)| document.lines().any(has_content));
    documents
}

/// The message of a YAML error without the line, which is that within the document, and without advice to
/// programmers.
fn without_place(message: &str) -> String {
    let first_line = message.lines().next().unwrap_or_default();
    let message = first_line.strip_prefix("error: ").unwrap_or(first_line);
    let message = message.split_once(" at line ").map_or(message, |(message, _)| message);
    let without_prefix = message.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    let message = without_prefix.map_or(message, |(_, message)| message);
    message.split_once(", set DuplicateKeyPolicy").map_or(message, |(message, _)| message).trim().to_owned()
}

impl Parsed {
    /// Takes in a document that is YAML: an object, or a list of objects. `before` is the number of lines before
    /// the text that the tree was parsed from.
    fn document(&mut self, tree: &Tree, before: usize) {
        if tree.is_null() {
            return;
        }
        let kind = tree.text("kind").unwrap_or_default();
        if !tree.is_map() || kind.is_empty() {
            let message = "not a Kubernetes object: it has no kind".to_owned();
            self.broken.push(Broken { line: before + tree.line, object: None, message });
            return;
        }
        match (tree.text("apiVersion").unwrap_or_default(), kind) {
            ("v1", "Service") => self.object::<core::Service>(tree, before, Kind::Service),
            ("v1", "Node") => self.object::<core::Node>(tree, before, Kind::Node),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                self.object::<discovery::EndpointSlice>(tree, before, Kind::EndpointSlice);
            }
            ("networking.k8s.io/v1", "ServiceCIDR") => {
                self.object::<networking::ServiceCIDR>(tree, before, Kind::ServiceCidr);
            }
            // `kubectl get -o yaml` gives a List, the API ServiceList and the like.
            (_, kind)
                if kind.ends_with("List") && tree.get("items").is_some_and(|items| items.elements().is_some()) =>
            {
                for item in tree.get("items").and_then(Tree::elements).unwrap_or_default() {
                    self.document(item, before);
                }
            }
            (version, "Service" | "Node" | "EndpointSlice" | "ServiceCIDR") => {
                let expected = match kind {
                    "EndpointSlice" => "discovery.k8s.io/v1",
                    "ServiceCIDR" => "networking.k8s.io/v1",
                    _ => "v1",
                };
                let message = format!("apiVersion: '{version}' has no {kind} that can be read: expected {expected}");
                self.broken.push(Broken {
                    line: before + tree.line_of("apiVersion"),
                    object: reference(tree),
                    message,
                });
            }
            (_, kind) => self.ignored.push((before + tree.line, kind.to_owned())),
        }
    }

    fn object<T: DeserializeOwned + IntoObject>(&mut self, tree: &Tree, before: usize, kind: Kind) {
        let object = reference(tree);
        let mut broken = |line: usize, object, message| {
            self.broken.push(Broken { line: before + line, object, message });
        };
        let api: T = match serde_path_to_error::deserialize(tree.value()) {
            Ok(api) => api,
            Err(error) => {
                let (path, line) = (error.path().to_string(), tree.line_at(error.path()));
                return broken(line, object, format!("{path}: {}", error.into_inner()));
            }
        };
        match api.into_object() {
            Ok(found) => self.objects.push(Found { line: before + tree.line, object: found }),
            Err(error) => {
                // Without a name it cannot be told which object is meant.
                let object = object.filter(|object| object.kind() == kind);
                let message = format!("{}: {}", error.field, error.message);
                broken(tree.line_of(&error.field), object, message);
            }
        }
    }
}

/// Which object a document is about, as far as it can be told without reading the rest.
fn reference(tree: &Tree) -> Option<ObjectRef> {
    let meta = tree.get("metadata")?;
    let name = meta.text("name").filter(|name| !name.is_empty())?;
    let namespace = meta.text("namespace").filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    match tree.text("kind")? {
        "Service" => Some(ObjectRef::Service(ObjectName::new(namespace, name))),
        "EndpointSlice" => Some(ObjectRef::EndpointSlice(ObjectName::new(namespace, name))),
        "Node" => Some(ObjectRef::Node(name.to_owned())),
        "ServiceCIDR" => Some(ObjectRef::ServiceCidr(name.to_owned())),
        _ => None,
    }
}

/// The checked object of an API type.
trait IntoObject {
    fn into_object(self) -> Result<Object, ObjectError>;
}

impl IntoObject for core::Service {
    fn into_object(self) -> Result<Object, ObjectError> {
        Service::try_from(&self).map(Object::Service)
    }
}

impl IntoObject for core::Node {
    fn into_object(self) -> Result<Object, ObjectError> {
        Node::try_from(&self).map(Object::Node)
    }
}

impl IntoObject for networking::ServiceCIDR {
    fn into_object(self) -> Result<Object, ObjectError> {
        ServiceCidr::try_from(&self).map(Object::ServiceCidr)
    }
}

impl IntoObject for discovery::EndpointSlice {
    fn into_object(self) -> Result<Object, ObjectError> {
        EndpointSlice::try_from(&self).map(Object::EndpointSlice)
    }
}
