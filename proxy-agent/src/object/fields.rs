//! Reading single fields, with errors that name object and field.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Kind, ObjectError, ObjectName, ObjectRef, Text, parse_address, parse_range};

/// Length of the longest namespace, Service name (RFC 1123 label) and what the maps can hold of it.
const MAX_LABEL: usize = 63;
/// Length of the longest name of an object (RFC 1123 subdomain).
const MAX_SUBDOMAIN: usize = 253;
/// Length of the longest port name in the maps: IANA service names have 15 characters (RFC 6335).
const MAX_PORT_NAME: usize = 15;

/// Reads the fields of one object.
pub(super) struct Fields {
    object: ObjectRef,
}

impl Fields {
    pub(super) fn of(object: ObjectRef) -> Self {
        Self { object }
    }

    /// Namespace and name of a namespaced object. An absent namespace means `default`, as for kubectl.
    pub(super) fn name(kind: Kind, meta: &ObjectMeta) -> Result<ObjectName, ObjectError> {
        let namespace = meta.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
        let name = ObjectName::new(namespace, meta.name.as_deref().unwrap_or_default());
        let (fields, longest) = match kind {
            Kind::Service => (Self::of(ObjectRef::Service(name.clone())), MAX_LABEL),
            Kind::EndpointSlice => (Self::of(ObjectRef::EndpointSlice(name.clone())), MAX_SUBDOMAIN),
            Kind::Node => (Self::of(ObjectRef::Node(name.name.to_string())), MAX_SUBDOMAIN),
            Kind::ServiceCidr => (Self::of(ObjectRef::ServiceCidr(name.name.to_string())), MAX_SUBDOMAIN),
        };
        if name.name.is_empty() {
            return Err(fields.error("metadata.name", "missing"));
        }
        fields.text("metadata.namespace", &name.namespace, MAX_LABEL)?;
        fields.text("metadata.name", &name.name, longest)?;
        Ok(name)
    }

    pub(super) fn error(&self, field: impl Into<String>, message: impl Into<String>) -> ObjectError {
        ObjectError { object: self.object.clone(), field: field.into(), message: message.into() }
    }

    /// Text that the maps can hold and tell apart: not longer than `longest`, printable ASCII.
    fn text(&self, path: &str, text: &str, longest: usize) -> Result<(), ObjectError> {
        if text.len() > longest {
            let message = format!("'{text}' has {} characters: {longest} are allowed", text.len());
            return Err(self.error(path, message));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(self.error(path, format!("{text:?} has characters that no name may have")));
        }
        Ok(())
    }

    pub(super) fn port_name(&self, path: &str, name: Option<&str>) -> Result<Text, ObjectError> {
        let name = name.unwrap_or_default();
        self.text(path, name, MAX_PORT_NAME)?;
        Ok(name.into())
    }

    pub(super) fn port(&self, path: &str, number: i32) -> Result<NonZeroU16, ObjectError> {
        let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
        port.ok_or_else(|| self.error(path, format!("{number} is not a port: expected 1 to 65535")))
    }

    pub(super) fn address(&self, path: &str, text: &str) -> Result<IpAddr, ObjectError> {
        parse_address(text).map_err(|error| self.error(path, error.to_string()))
    }

    pub(super) fn range(&self, path: &str, text: &str) -> Result<IpNet, ObjectError> {
        parse_range(text).map_err(|error| self.error(path, error.to_string()))
    }
}
