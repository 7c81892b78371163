//! What is wrong with an object, in words for its author.

use std::fmt;

use super::ObjectRef;

/// A field of an object that nothing can be made of. Displayed as `Service default/web: spec.ports[0].port: …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field}: {message}")]
pub struct ObjectError {
    /// The object.
    pub object: ObjectRef,
    /// Path of the field, as kubectl writes it.
    pub field: String,
    /// What is wrong and what is expected.
    pub message: String,
}

/// Something that the operator should know and only the operator can mend.
///
/// Displayed as `manifests/web.yaml:12: Service default/web: what is wrong`, as far as the parts are known.
/// Problems are compared to tell new ones from those already reported, so the text never holds what changes by
/// itself, such as the time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// File and line, where the object comes from a file.
    pub place: Option<String>,
    /// The object, where one is concerned.
    pub object: Option<ObjectRef>,
    /// What is wrong and, where it is not plain from that, what follows from it.
    pub message: String,
}

impl Problem {
    /// A problem of an object.
    pub fn of(object: ObjectRef, message: impl Into<String>) -> Self {
        Self { place: None, object: Some(object), message: message.into() }
    }

    /// The same problem, known to be at a place.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }
}

impl From<ObjectError> for Problem {
    fn from(error: ObjectError) -> Self {
        Self::of(error.object, format!("{}: {}", error.field, error.message))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)
    }
}
