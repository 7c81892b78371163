//! A document as a tree of values that know their lines.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use serde_saphyr::Spanned;

/// A value and the line it begins at, counted from 1 within the text that was parsed.
#[derive(Debug)]
pub(super) struct Tree {
    pub line: usize,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    /// Null, a boolean, a number or a string.
    Scalar(Value),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// Reads the first document of a YAML text. JSON is YAML too.
    pub(super) fn parse(text: &str) -> Result<Self, serde_saphyr::Error> {
        let options = serde_saphyr::options! {
            // Kubernetes takes only true and false for booleans, and objects are full of strings like `on`.
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            with_snippet: false,
            // A List of a whole cluster is one document.
            budget: serde_saphyr::budget! { max_nodes: 10_000_000, max_events: 40_000_000 },
        };
        serde_saphyr::from_str_with_options::<Spanned<Shape>>(text, options).map(Self::from)
    }

    /// The value under a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.shape {
            Shape::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            Shape::Scalar(_) | Shape::List(_) => None,
        }
    }

    /// The string under a key.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.shape {
            Shape::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The elements of a list.
    pub(super) fn elements(&self) -> Option<&[Self]> {
        match &self.shape {
            Shape::List(elements) => Some(elements),
            Shape::Scalar(_) | Shape::Map(_) => None,
        }
    }

    /// Whether there is nothing in it.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.shape, Shape::Scalar(Value::Null))
    }

    /// Whether it has keys.
    pub(super) fn is_map(&self) -> bool {
        matches!(self.shape, Shape::Map(_))
    }

    /// The line of the value at a path, or of the innermost value on the way that exists.
    pub(super) fn line_at(&self, path: &Path) -> usize {
        let mut tree = self;
        for segment in path {
            let next = match (segment, &tree.shape) {
                (Segment::Map { key }, _) => tree.get(key),
                (Segment::Seq { index }, Shape::List(elements)) => elements.get(*index),
                _ => None,
            };
            match next {
                Some(next) => tree = next,
                None => break,
            }
        }
        tree.line
    }

    /// The same for a path in writing, such as `spec.ports[0].port`.
    pub(super) fn line_of(&self, path: &str) -> usize {
        let mut tree = self;
        for part in path.split(['.', '[']) {
            let next = match part.strip_suffix(']') {
                Some(index) => index.parse::<usize>().ok().and_then(|index| tree.elements()?.get(index)),
                None => tree.get(part),
            };
            match next {
                Some(next) => tree = next,
                None => break,
            }
        }
        tree.line
    }

    /// The same without lines.
    pub(super) fn value(&self) -> Value {
        match &self.shape {
            Shape::Scalar(value) => value.clone(),
            Shape::List(elements) => elements.iter().map(Self::value).collect(),
            Shape::Map(entries) => entries.iter().map(|(key, tree)| (key.clone(), tree.value())).collect(),
        }
    }
}

impl From<Spanned<Shape>> for Tree {
    fn from(spanned: Spanned<Shape>) -> Self {
        Self { line: usize::try_from(spanned.referenced.line()).unwrap_or(usize::MAX), shape: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        Shape::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Shape, S::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element::<Spanned<Shape>>()? {
            elements.push(element.into());
        }
        Ok(Shape::List(elements))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Shape, M::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            entries.push((key, map.next_value::<Spanned<Shape>>()?.into()));
        }
        Ok(Shape::Map(entries))
    }
}
