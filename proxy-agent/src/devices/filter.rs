//! `--devices`: which devices to attach to, by name.

use std::fmt;
use std::str::FromStr;

/// A list such as `eth0,cali+,!docker0`.
///
/// Each part is a name, or the beginning of names followed by `+`; with `!` in front it excludes. The last part
/// that fits a device decides. A device that no part fits is left to the rule (see [`super::classify`]) if the
/// list only excludes, and is not attached if the list includes anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFilter {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    name: String,
    is_prefix: bool,
    is_excluded: bool,
}

/// What the list says of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the rule decides.
    Rule,
    /// Attach to it, whatever the rule says.
    Include,
    /// Don't.
    Exclude,
}

/// Text that is no list of devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no device: expected a name (eth0) or the beginning of names (cali+), each with ! to exclude it")]
pub struct ParseFilterError(String);

impl DeviceFilter {
    /// What the list says of a device.
    pub fn verdict(&self, device: &str) -> Verdict {
        let fits = |part: &&Part| {
            if part.is_prefix { device.starts_with(&part.name) } else { device == part.name }
        };
        match self.parts.iter().rev().find(fits) {
            Some(part) if part.is_excluded => Verdict::Exclude,
            Some(_) => Verdict::Include,
            None if self.parts.iter().all(|part| part.is_excluded) => Verdict::Rule,
            None => Verdict::Exclude,
        }
    }
}

impl FromStr for DeviceFilter {
    type Err = ParseFilterError;

    fn from_str(text: &str) -> Result<Self, ParseFilterError> {
        /// `IFNAMSIZ` without the zero byte.
        const LONGEST: usize = 15;
        let part = |text: &str| {
            let (is_excluded, name) = text.strip_prefix('!').map_or((false, text), |name| (true, name));
            let (is_prefix, name) = name.strip_suffix('+').map_or((false, name), |name| (true, name));
            let is_odd = |c: char| c.is_whitespace() || matches!(c, '/' | '!' | '+' | '*');
            if name.len() > LONGEST || name.contains(is_odd) || (name.is_empty() && !is_prefix) {
                return Err(ParseFilterError(text.to_owned()));
            }
            Ok(Part { name: name.to_owned(), is_prefix, is_excluded })
        };
        let parts = text.split(',').map(|text| part(text.trim())).collect::<Result<_, _>>()?;
        Ok(Self { parts })
    }
}

impl fmt::Display for DeviceFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.parts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let not = if part.is_excluded { "!" } else { "" };
            let plus = if part.is_prefix { "+" } else { "" };
            write!(f, "{comma}{not}{}{plus}", part.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_that_fits_decides() {
        use Verdict::{Exclude, Include, Rule};
        for (list, device, expected) in [
            ("eth0", "eth0", Include),
            ("eth0", "eth01", Exclude),
            ("eth0,cali+", "cali123", Include),
            ("cali+,!cali1", "cali1", Exclude),
            ("!cali1,cali+", "cali1", Include),
            ("!docker0", "docker0", Exclude),
            ("!docker0", "eth0", Rule),
            ("!docker0,!br-+", "br-1", Exclude),
            ("+", "anything", Include),
            ("+,!lo", "lo", Exclude),
            (" eth0 , !eth1", "eth1", Exclude),
        ] {
            let filter = list.parse::<DeviceFilter>().map(|filter| filter.verdict(device));
            assert_eq!(filter, Ok(expected), "{device} in {list}");
        }
        assert_eq!(DeviceFilter::default().verdict("eth0"), Rule);
    }

    #[test]
    fn odd_lists_are_refused() {
        for list in ["", "eth0,", "!", "eth*", "a b", "averyveryverylongname", "!!eth0", "eth+0"] {
            assert!(list.parse::<DeviceFilter>().is_err(), "{list}");
        }
    }

    #[test]
    fn a_list_is_shown_as_it_was_written() {
        let list = "eth0,cali+,!docker0";
        assert_eq!(list.parse::<DeviceFilter>().map(|filter| filter.to_string()), Ok(list.to_owned()));
    }
}
