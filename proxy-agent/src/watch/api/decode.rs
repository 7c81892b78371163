//! From the text of the API server to objects, each by itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::core::Status;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::object::{
    EndpointSlice, Kind, Node, Object, ObjectError, ObjectName, ObjectRef, Problem, Service, ServiceCidr,
};

/// A page of a list. Its items are still text.
#[derive(Debug, Deserialize)]
pub(super) struct Page<'a> {
    pub metadata: PageMeta,
    #[serde(borrow, default)]
    pub items: Option<Vec<&'a RawValue>>,
}

/// Where a page stands.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMeta {
    /// The place in time from which a watch goes on.
    pub resource_version: Option<String>,
    /// Names the next page, where there is one.
    pub r#continue: Option<String>,
}

/// A line of a watch.
#[derive(Debug)]
pub(super) enum Line {
    /// The object is new or different.
    Changed(Read),
    /// The object is gone.
    Gone(Option<ObjectRef>),
    /// Nothing but the place in time.
    Bookmark,
    /// A bookmark: of a streaming list all objects have come.
    AllSent,
    /// The watch cannot go on.
    Error(Box<Status>),
}

/// An object as it was read.
#[derive(Debug)]
pub(super) enum Read {
    /// It can be used.
    Good(Box<Object>),
    /// It cannot; what is known of it stays.
    Bad(Problem),
}

#[derive(Deserialize)]
struct Event<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    namespace: Option<String>,
    name: Option<String>,
    resource_version: Option<String>,
}

/// What is read of a bookmark that may be the end of a streaming list.
#[derive(Deserialize)]
struct Marked {
    metadata: Marks,
}

#[derive(Deserialize)]
struct Marks {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// The annotation of the bookmark behind the last object (`InitialEventsAnnotationKey` of meta/v1).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Reads a line of a watch. With it comes the place in time that it leads to.
pub(super) fn line(kind: Kind, text: &str) -> Result<(Line, Option<String>), serde_json::Error> {
    let event: Event = serde_json::from_str(text)?;
    if event.r#type == "ERROR" {
        return Ok((Line::Error(serde_json::from_str(event.object.get())?), None));
    }
    // An object with a broken head is reported when it is read in full.
    let mut meta = serde_json::from_str::<Named>(event.object.get()).map(|named| named.metadata).unwrap_or_default();
    let version = meta.resource_version.take();
    let line = match event.r#type {
        "BOOKMARK" if is_end(event.object) => Line::AllSent,
        "BOOKMARK" => Line::Bookmark,
        "DELETED" => Line::Gone(meta.reference(kind)),
        _ => Line::Changed(object(kind, event.object)),
    };
    Ok((line, version))
}

fn is_end(bookmark: &RawValue) -> bool {
    let annotations =
        serde_json::from_str::<Marked>(bookmark.get()).ok().and_then(|marked| marked.metadata.annotations);
    annotations.is_some_and(|all| all.get(INITIAL_EVENTS_END).is_some_and(|value| value == "true"))
}

/// Reads an object.
pub(super) fn object(kind: Kind, text: &RawValue) -> Read {
    match kind {
        Kind::Service => read::<core::Service, _>(kind, text, |api| Service::try_from(api).map(Object::Service)),
        Kind::EndpointSlice => read::<discovery::EndpointSlice, _>(kind, text, |api| {
            EndpointSlice::try_from(api).map(Object::EndpointSlice)
        }),
        Kind::Node => read::<core::Node, _>(kind, text, |api| Node::try_from(api).map(Object::Node)),
        Kind::ServiceCidr => {
            read::<networking::ServiceCIDR, _>(kind, text, |api| ServiceCidr::try_from(api).map(Object::ServiceCidr))
        }
    }
}

fn read<T, F>(kind: Kind, text: &RawValue, convert: F) -> Read
where
    T: DeserializeOwned,
    F: FnOnce(&T) -> Result<Object, ObjectError>,
{
    let mut json = serde_json::Deserializer::from_str(text.get());
    let message = match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Ok(api) => match convert(&api) {
            Ok(object) => return Read::Good(Box::new(object)),
            Err(error) => format!("{}: {}", error.field, error.message),
        },
        Err(error) => {
            let path = error.path().to_string();
            let cause = error.into_inner().to_string();
            // The position is that within the object's text, which nobody sees.
            let cause = cause.rsplit_once(" at line ").map_or(cause.as_str(), |(cause, _)| cause);
            format!("{path}: {cause}")
        }
    };
    let object = serde_json::from_str::<Named>(text.get()).ok().and_then(|named| named.metadata.reference(kind));
    Read::Bad(Problem { place: None, object, message: format!("{message}; what was known of it stays") })
}

impl Meta {
    fn reference(self, kind: Kind) -> Option<ObjectRef> {
        let name = self.name.filter(|name| !name.is_empty())?;
        let namespaced = |name| ObjectName::new(self.namespace.clone().unwrap_or_default(), name);
        Some(match kind {
            Kind::Service => ObjectRef::Service(namespaced(name)),
            Kind::EndpointSlice => ObjectRef::EndpointSlice(namespaced(name)),
            Kind::Node => ObjectRef::Node(name),
            Kind::ServiceCidr => ObjectRef::ServiceCidr(name),
        })
    }
}
