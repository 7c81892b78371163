//! Addresses as the API has them, which is not always how they should be written.

use std::net::{IpAddr, Ipv4Addr};

/// Text that is no IP address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an IP address")]
pub struct ParseAddressError(String);

/// Reads an address as leniently as kube-proxy does (`ParseIPSloppy` of k8s.io/utils/net): old objects have IPv4
/// addresses with leading zeros, which are decimal (`010.1.2.3` is 10.1.2.3), and IPv4 addresses in an IPv6
/// mantle (`::ffff:10.1.2.3`), which are IPv4.
pub fn parse_address(text: &str) -> Result<IpAddr, ParseAddressError> {
    if let Some(v4) = parse_decimal_v4(text) {
        return Ok(IpAddr::V4(v4));
    }
    // The tail of a mapped address may have leading zeros too.
    if let Some((head, tail)) = text.rsplit_once(':')
        && let Some(v4) = parse_decimal_v4(tail)
    {
        return match format!("{head}:{v4}").parse::<IpAddr>() {
            Ok(address) => Ok(address.to_canonical()),
            Err(_) => Err(ParseAddressError(text.to_owned())),
        };
    }
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => Err(ParseAddressError(text.to_owned())),
    }
}

/// Four decimal numbers, leading zeros allowed.
fn parse_decimal_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_addresses_are_read_as_kube_proxy_reads_them() {
        for (text, expected) in [
            ("10.1.2.3", Some("10.1.2.3")),
            ("010.001.2.3", Some("10.1.2.3")),
            ("::ffff:10.1.2.3", Some("10.1.2.3")),
            ("::ffff:0a01:0203", Some("10.1.2.3")),
            ("::ffff:010.1.2.3", Some("10.1.2.3")),
            ("fd00::1", Some("fd00::1")),
            ("FD00:0:0::1", Some("fd00::1")),
            ("10.1.2", None),
            ("10.1.2.256", None),
            ("10.1.2.3.4", None),
            ("+1.2.3.4", None),
            ("fd00::1%eth0", None),
            ("None", None),
            ("", None),
        ] {
            let read = parse_address(text).ok().map(|address| address.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_error_repeats_the_text() {
        let error = parse_address("10.0.0.x").map_err(|error| error.to_string());
        assert_eq!(error, Err("'10.0.0.x' is not an IP address".to_owned()));
    }
}
