//! The objects of a scenario, as YAML has them.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use proxy_agent::object::{EndpointSlice, Node, Object, Service};
use proxy_testkit::lab::plan;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The name of an object. Displayed as `Service default/web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `Service`, `EndpointSlice` or `Node`.
    pub kind: String,
    /// Empty for a Node.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

impl Key {
    /// Reads `KIND NAME` or `KIND NAMESPACE/NAME`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (kind, name) = text.split_once(' ').context("expected a kind and a name, as in `Service web`")?;
        match kind {
            "Service" => Ok(Self::service(name.trim())),
            "EndpointSlice" => Ok(Self { kind: kind.to_owned(), ..Self::service(name.trim()) }),
            "Node" => Ok(Self { kind: kind.to_owned(), namespace: String::new(), name: name.trim().to_owned() }),
            _ => bail!("`{kind}` is no kind: expected Service, EndpointSlice or Node"),
        }
    }

    /// A Service `NAME`, in the namespace `default`, or `NAMESPACE/NAME`.
    pub(super) fn service(text: &str) -> Self {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        Self { kind: "Service".to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The name of an object.
    fn of(object: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        ensure!(!name.is_empty(), "an object without metadata.name");
        let namespace = match (kind.as_str(), text(&object["metadata"]["namespace"])) {
            ("Node", _) => String::new(),
            (_, namespace) if namespace.is_empty() => "default".to_owned(),
            (_, namespace) => namespace,
        };
        Ok(Self { kind, namespace, name })
    }
}

/// The objects that there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects(BTreeMap<Key, Value>);

impl Objects {
    /// The Node objects of the two nodes.
    pub fn nodes() -> Self {
        let node = |number: u8| {
            let ((v4, v6), (range_v4, range_v6)) = (plan::node(number), plan::pod(number, 0));
            let name = format!("node{number}");
            let object = json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "spec": {"podCIDR": format!("{range_v4}/24"),
                         "podCIDRs": [format!("{range_v4}/24"), format!("{range_v6}/64")]},
                "status": {"addresses": [
                    {"type": "Hostname", "address": name},
                    {"type": "InternalIP", "address": v4.to_string()},
                    {"type": "InternalIP", "address": v6.to_string()},
                ]},
            });
            (Key { kind: "Node".to_owned(), namespace: String::new(), name }, object)
        };
        Self([node(1), node(2)].into())
    }

    /// Creates or replaces an object.
    pub fn set(&mut self, object: Value) -> Result<()> {
        check(&object)?;
        self.0.insert(Key::of(&object)?, object);
        Ok(())
    }

    /// Changes an object by a merge patch (RFC 7386).
    pub fn patch(&mut self, key: &Key, patch: &Value) -> Result<()> {
        let mut object = self.get(key)?.clone();
        merge(&mut object, patch);
        ensure!(Key::of(&object)? == *key, "a patch does not rename");
        self.set(object)
    }

    /// Deletes an object.
    pub fn delete(&mut self, key: &Key) -> Result<()> {
        self.0.remove(key).with_context(|| format!("there is no {key}"))?;
        Ok(())
    }

    /// Deletes the EndpointSlices of a Service.
    pub fn delete_slices_of(&mut self, service: &Key) {
        self.0.retain(|key, object| {
            let of = &object["metadata"]["labels"]["kubernetes.io/service-name"];
            !(key.kind == "EndpointSlice" && key.namespace == service.namespace && *of == *service.name)
        });
    }

    /// An object.
    pub fn get(&self, key: &Key) -> Result<&Value> {
        self.0.get(key).with_context(|| format!("there is no {key}"))
    }

    /// All objects, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.0.iter()
    }

    /// The objects as the agent has them. What it would refuse is left out, as it leaves that out.
    pub fn read(&self) -> Vec<Object> {
        self.0.values().filter_map(|object| read(object).ok()).collect()
    }
}

/// An object, checked as the agent checks it.
fn read(object: &Value) -> Result<Object> {
    fn parse<T: DeserializeOwned>(object: &Value) -> Result<T> {
        Ok(T::deserialize(object)?)
    }
    Ok(match object["kind"].as_str().unwrap_or_default() {
        "Service" => Object::Service(Service::try_from(&parse::<core::Service>(object)?)?),
        "EndpointSlice" => Object::EndpointSlice(EndpointSlice::try_from(&parse::<discovery::EndpointSlice>(object)?)?),
        _ => Object::Node(Node::try_from(&parse::<core::Node>(object)?)?),
    })
}

/// Whether an object is one that the API server could hold, with no field that it does not have: those are slips of the
/// pen. What the agent thinks of the values is for the scenario to find out.
fn check(object: &Value) -> Result<()> {
    let key = Key::of(object)?;
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let known = match (version, key.kind.as_str()) {
        ("v1", "Service") => known_fields::<core::Service>(object),
        ("discovery.k8s.io/v1", "EndpointSlice") => known_fields::<discovery::EndpointSlice>(object),
        ("v1", "Node") => known_fields::<core::Node>(object),
        (version, kind) => bail!("`{kind}` of `{version}`: expected a Service or Node of v1, or an EndpointSlice"),
    };
    let known = known.with_context(|| key.to_string())?;
    match unknown_field(object, &known) {
        Some(path) => bail!("{key}: there is no field {}", path.trim_start_matches('.')),
        None => Ok(()),
    }
}

/// The object as it comes back from its type: without the fields that the type does not have.
fn known_fields<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value> {
    Ok(serde_json::to_value(T::deserialize(object)?)?)
}

/// The path of the first field that is in `object` and not in `known`.
fn unknown_field(object: &Value, known: &Value) -> Option<String> {
    match (object, known) {
        (Value::Object(fields), Value::Object(known)) => fields.iter().find_map(|(name, value)| {
            match known.get(name) {
                Some(known) => unknown_field(value, known),
                // Absent and empty are one to the types.
                None if value.is_null() || *value == json!([]) => None,
                None => Some(String::new()),
            }
            .map(|rest| format!(".{name}{rest}"))
        }),
        (Value::Array(values), Value::Array(known)) => values.iter().zip(known).enumerate().find_map(|(at, pair)| {
            let (value, known) = pair;
            unknown_field(value, known).map(|rest| format!("[{at}]{rest}"))
        }),
        _ => None,
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(target) = target else { return };
    for (name, value) in fields {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Reads YAML documents that are separated by `---`. The error comes with its line in the file.
pub(super) fn documents(body: &[(usize, &str)]) -> Result<Vec<Value>, (usize, String)> {
    let mut documents = Vec::new();
    for lines in body.split(|(_, text)| text.trim() == "---") {
        let is_content = |text: &str| !text.trim().is_empty() && !text.trim_start().starts_with('#');
        if let Some((first, _)) = lines.iter().find(|(_, text)| is_content(text)) {
            let start = lines.first().map_or(*first, |(line, _)| *line);
            let text: String = lines.iter().map(|(_, text)| format!("{text}\n")).collect();
            documents.push(document(&text).map_err(|(line, message)| (start + line.saturating_sub(1), message))?);
        }
    }
    Ok(documents)
}

fn document(text: &str) -> Result<Value, (usize, String)> {
    // As the agent reads manifests.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
        let message = error.to_string();
        (line, format!("not valid YAML: {}", message.lines().next().unwrap_or_default()))
    })
}
