//! The configuration file.

use serde_json::{Map, Value};

use super::table::{Place, TABLE, apply, either};
use super::{ConfigError, Draft};
use crate::config::value;

const VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// Reads the text of a file.
pub(super) fn read(draft: &mut Draft, text: &str) -> Result<(), ConfigError> {
    let root: Value = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default();
        ConfigError::at(format_args!("line {line}"), format!("not valid YAML: {}", first.trim_start_matches("error: ")))
    })?;
    let Value::Object(mut fields) = root else {
        return Err(ConfigError::at("apiVersion", format!("missing: expected {VERSION}")));
    };
    for (field, expected) in [("apiVersion", VERSION), ("kind", KIND)] {
        match fields.remove(field) {
            Some(Value::String(text)) if text == expected => {}
            None => return Err(ConfigError::at(field, format!("missing: expected {expected}"))),
            Some(other) => {
                let message = format!("{} cannot be read: expected {expected}", value::shown(&other));
                return Err(ConfigError::at(field, message));
            }
        }
    }
    let mut values = Map::new();
    flatten("", fields, &mut values)?;
    for row in TABLE.iter().filter(|row| !row.field.is_empty()) {
        if let Some(value) = values.get(row.field) {
            let place = Place { name: row.field, is_flag: false };
            apply(row, draft, value, place).map_err(|message| ConfigError::at(row.field, message))?;
        }
    }
    Ok(())
}

/// Goes down into sections, and refuses what no row is named after.
fn flatten(section: &str, fields: Map<String, Value>, values: &mut Map<String, Value>) -> Result<(), ConfigError> {
    for (name, value) in fields {
        let path = if section.is_empty() { name } else { format!("{section}.{name}") };
        if TABLE.iter().any(|row| row.field == path) {
            values.insert(path, value);
        } else if names_in(&path).is_empty() {
            let message = format!("unknown: expected {}", either(&names_in(section)));
            return Err(ConfigError::at(path, message));
        } else {
            match value {
                Value::Object(fields) => flatten(&path, fields, values)?,
                Value::Null => {}
                other => {
                    let message =
                        format!("{} is not a section: expected {}", value::shown(&other), either(&names_in(&path)));
                    return Err(ConfigError::at(path, message));
                }
            }
        }
    }
    Ok(())
}

/// The names of what a section may have, sorted.
fn names_in(section: &str) -> Vec<&'static str> {
    let inside = |field: &'static str| match section {
        "" => Some(field),
        _ => field.strip_prefix(section)?.strip_prefix('.'),
    };
    let first = |rest: &'static str| rest.split('.').next().filter(|name| !name.is_empty());
    let mut names: Vec<_> = TABLE.iter().filter_map(|row| inside(row.field).and_then(first)).collect();
    names.sort_unstable();
    names.dedup();
    names
}
