//! Single values, and what is said of wrong ones.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use crate::object::parse_address;

/// Shows a value as its author wrote it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{text}'"),
        other => format!("'{other}'"),
    }
}

pub(super) fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("{} is not a text", shown(value)))
}

pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{} is not a switch: expected true or false", shown(value)))
}

pub(super) fn number(value: &Value, min: i64, max: i64) -> Result<i64, String> {
    let range = || match max {
        i64::MAX => format!("{min} or more"),
        _ => format!("{min} to {max}"),
    };
    let number = value.as_i64().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("{} is not allowed: expected a whole number, {}", shown(value), range()))
}

/// A list of texts. A single text is taken apart at its commas, as flags are.
pub(super) fn texts(value: &Value) -> Result<Vec<&str>, String> {
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        Value::String(text) => Ok(text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect()),
        other => Err(format!("{} is not a list of texts", shown(other))),
    }
}

/// A duration as Go writes it (`time.ParseDuration`): `30s`, `1h30m`, `1.5s`.
pub(super) fn duration(value: &Value) -> Result<Duration, String> {
    let wrong = || format!("{} is not a duration: expected numbers with units, like 30s, 1h30m or 500ms", shown(value));
    let text = value.as_str().ok_or_else(wrong)?;
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(sum)
}

pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    parse_address(text).map_err(|error| error.to_string())
}

/// `IP:PORT`, or `IP` alone with a usual port. Nothing: nowhere.
pub(super) fn bind_address(text: &str, port: u16) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let alone = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = alone.parse::<IpAddr>() {
        return Ok(Some(SocketAddr::new(ip, port)));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Some(address)),
        _ => Err(format!("'{text}' cannot be bound to: expected IP or IP:PORT, with a port from 1 to 65535")),
    }
}

pub(super) fn range(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .map(|range| range.trunc())
        .map_err(|_| format!("'{text}' is not a range of addresses: expected something like 10.0.0.0/8 or fd00::/8"))
}

/// One range, or one of each family.
pub(super) fn ranges_of_cluster(texts: &[&str]) -> Result<Vec<IpNet>, String> {
    let ranges = texts.iter().map(|text| range(text)).collect::<Result<Vec<_>, _>>()?;
    let is_v4 = |range: &IpNet| matches!(range, IpNet::V4(_));
    match ranges.as_slice() {
        [] | [_] => Ok(ranges),
        [one, other] if is_v4(one) != is_v4(other) => Ok(ranges),
        _ => Err(format!("'{}': expected one range, or one of each family", texts.join(","))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, expected) in [
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("24h0m0s", Some(86_400_000)),
            ("1.5s", Some(1_500)),
            ("500ms", Some(500)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("99999999999999999999h", None),
        ] {
            let read = duration(&Value::from(text)).ok();
            assert_eq!(read, expected.map(Duration::from_millis), "{text}");
        }
    }
}
