//! What the agent counts of itself: its `/metrics`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use proxy_testkit::Host;

/// `metricsBindAddress`, as it is by default, with kube-proxy, too.
const PORT: u16 = 10249;

/// One reading.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Reads them on a node.
    pub fn read(node: &Host) -> Result<Self> {
        let text = node.inside(|| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        Ok(Self(text.with_context(|| format!("reading the metrics of {}", node.name))?))
    }

    /// The sum of all series of this name.
    pub fn sum(&self, name: &str) -> f64 {
        let values = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_it = series == name || series.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
            value.parse::<f64>().ok().filter(|_| is_it)
        });
        values.sum()
    }

    /// The buckets of a histogram without labels: upper bound and count so far.
    fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let prefix = format!("{name}_bucket{{le=\"");
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.parse().ok()?))
        };
        self.0.lines().filter_map(bucket).collect()
    }

    /// The value that the given part of what was observed since an earlier reading is not above, in the histogram's unit:
    /// between the bounds of its bucket, as Prometheus' `histogram_quantile` has it. `None` if nothing was observed.
    pub fn quantile_since(&self, before: &Self, name: &str, part: f64) -> Option<f64> {
        let pairs = self.buckets(name).into_iter().zip(before.buckets(name));
        quantile(&pairs.map(|((bound, now), (_, then))| (bound, now - then)).collect::<Vec<_>>(), part)
    }
}

/// Of buckets with what is below their bounds.
fn quantile(buckets: &[(f64, f64)], part: f64) -> Option<f64> {
    let (_, total) = *buckets.last().filter(|(_, total)| *total > 0.0)?;
    let rank = total * part;
    let (mut below, mut counted) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank {
            let share = if *count > counted { (rank - counted) / (count - counted) } else { 1.0 };
            return Some(if bound.is_finite() { below + (bound - below) * share } else { below });
        }
        (below, counted) = (*bound, *count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE lag histogram
lag_sum 3.5
lag_bucket{le=\"1.0\"} 2
lag_bucket{le=\"2.0\"} 4
lag_bucket{le=\"+Inf\"} 4
writes_total 7
up{of=\"a\"} 1
up{of=\"b\"} 2
uplink 9
";

    #[test]
    fn series_are_found_by_their_name() {
        let metrics = Metrics(TEXT.to_owned());
        assert_eq!((metrics.sum("writes_total"), metrics.sum("up"), metrics.sum("none")), (7.0, 3.0, 0.0));
    }

    #[test]
    fn quantiles_lie_between_the_bounds_of_their_bucket() {
        let (before, now) = (Metrics(TEXT.replace("} 4", "} 2")), Metrics(TEXT.to_owned()));
        let nothing = Metrics(TEXT.replace("} 2", "} 0").replace("} 4", "} 0"));
        assert_eq!(now.quantile_since(&nothing, "lag", 0.5), Some(1.0));
        assert_eq!(now.quantile_since(&before, "lag", 0.5), Some(1.5));
        assert_eq!(now.quantile_since(&now, "lag", 0.5), None);
        assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 3.0)], 0.99), Some(1.0));
    }
}
