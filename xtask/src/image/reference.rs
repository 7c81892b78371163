//! The name of an image.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, bail};

/// `NAME:TAG`, where NAME may begin with a registry (grammar: distribution/reference, `reference.go`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    name: String,
    tag: String,
}

impl Reference {
    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The name without the tag.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// With the registry that container runtimes take where none is named.
    pub fn in_full(&self) -> String {
        match self.name.split_once('/') {
            Some((first, _)) if is_registry(first) => self.to_string(),
            Some(_) => format!("docker.io/{self}"),
            None => format!("docker.io/library/{self}"),
        }
    }
}

impl Default for Reference {
    /// `localhost` is nobody's registry: where the image was not imported, no stranger's image is pulled instead.
    fn default() -> Self {
        Self { name: "localhost/pointsman".to_owned(), tag: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, tag) = match text.rsplit_once(':') {
            // A colon before a slash belongs to the registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (text, env!("CARGO_PKG_VERSION")),
        };
        let mut parts = name.split('/');
        let (first, rest) = (parts.next().unwrap_or_default(), parts.collect::<Vec<_>>());
        let is_good = (is_registry(first) && !rest.is_empty() || is_part(first)) && rest.into_iter().all(is_part);
        if !is_good {
            bail!("'{name}' is no name of an image: expected [REGISTRY/]NAME in small letters, digits and . _ -");
        }
        let is_tag = |char: char| char.is_ascii_alphanumeric() || "_.-".contains(char);
        if tag.is_empty() || tag.len() > 128 || !tag.chars().all(is_tag) || tag.starts_with(['.', '-']) {
            bail!("'{tag}' is no tag: expected up to 128 letters, digits and _ . -, with none of . - in front");
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned() })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

fn is_registry(part: &str) -> bool {
    let (host, port) = part.split_once(':').unwrap_or((part, "443"));
    let is_host = !host.is_empty() && host.chars().all(|char| char.is_ascii_alphanumeric() || ".-".contains(char));
    is_host && port.parse::<u16>().is_ok() && (part.contains(['.', ':']) || part == "localhost")
}

fn is_part(part: &str) -> bool {
    let is_inner = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
    part.starts_with(is_inner)
        && part.ends_with(is_inner)
        && part.chars().all(|char| is_inner(char) || "._-".contains(char))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_a_registry_and_a_tag() {
        for (text, full) in [
            ("localhost/pointsman:1", "localhost/pointsman:1"),
            ("registry.example:5000/net/pointsman:v1.0_a-b", "registry.example:5000/net/pointsman:v1.0_a-b"),
            ("pointsman:1", "docker.io/library/pointsman:1"),
            ("me/pointsman:1", "docker.io/me/pointsman:1"),
            ("example.org/pointsman", concat!("example.org/pointsman:", env!("CARGO_PKG_VERSION"))),
        ] {
            let reference: Reference = text.parse().expect(text);
            assert_eq!(reference.in_full(), full);
        }
        let default = Reference::default();
        assert_eq!(default.to_string().parse::<Reference>().expect("well-formed"), default);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", ":1", "Pointsman:1", "a//b:1", "a/:1", "a:", "a:b c", "a:-1", "a@sha256:1", "host:x/a:1"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
