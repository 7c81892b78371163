//! Ranges of addresses as the API has them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::parse_address;

/// Text that is no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a range of addresses: expected one such as 10.0.0.0/8 or fd00::/8")]
pub struct ParseRangeError(String);

/// Reads a range as leniently as kube-proxy does (`ParseCIDRSloppy` of k8s.io/utils/net, after trimming): space
/// around it, leading zeros, bits after the prefix, which are cleared.
pub fn parse_range(text: &str) -> Result<IpNet, ParseRangeError> {
    let read = || {
        let (address, prefix) = text.trim().split_once('/')?;
        let is_mapped = address.contains(':');
        let address = parse_address(address).ok()?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let prefix: u8 = prefix.parse().ok()?;
        let prefix = match address {
            // An IPv4 range in an IPv6 mantle.
            IpAddr::V4(_) if is_mapped => prefix.checked_sub(96)?,
            _ => prefix,
        };
        Some(IpNet::new(address, prefix).ok()?.trunc())
    };
    read().ok_or_else(|| ParseRangeError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_kube_proxy_reads_them() {
        for (text, expected) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            (" 203.0.113.0/25\t", Some("203.0.113.0/25")),
            ("010.001.002.003/16", Some("10.1.0.0/16")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("fd00::1/64", Some("fd00::/64")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:10.0.0.0/8", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/+8", None),
            ("10.0.0.0/", None),
            ("10.0.0.0", None),
            ("", None),
        ] {
            let read = parse_range(text).ok().map(|range| range.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }
}
