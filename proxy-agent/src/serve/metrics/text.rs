//! The formats of `/metrics`.

use std::fmt;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' older text format, which kube-proxy answers unless asked for another.
    Prometheus,
}

impl Format {
    /// The one that a header `Accept` asks for.
    pub(in crate::serve) fn asked_for(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The header `Content-Type`.
    pub(in crate::serve) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// All metrics.
    pub(in crate::serve) fn encode(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut encoded = String::new();
        text::encode(&mut encoded, registry)?;
        Ok(match self {
            Self::OpenMetrics => encoded,
            Self::Prometheus => older(&encoded),
        })
    }
}

/// From OpenMetrics to the older format: there a counter's family has the name of its samples, with `_total`, and
/// there are neither units nor an end mark.
fn older(encoded: &str) -> String {
    let mut result = String::with_capacity(encoded.len() + 1024);
    // The help comes before the type that it depends on.
    let mut help: Option<(&str, &str)> = None;
    for line in encoded.split_inclusive('\n') {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "\n"));
            let suffix = if kind.trim_end() == "counter" { "_total" } else { "" };
            if let Some((helped, words)) = help.take() {
                result.push_str(&format!("# HELP {helped}{suffix} {words}"));
            }
            result.push_str(&format!("# TYPE {name}{suffix} {kind}"));
            continue;
        }
        if !line.starts_with("# UNIT ") && !line.starts_with("# EOF") {
            result.push_str(line);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn a_counter_has_one_name_in_the_older_format() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        counter.inc_by(3);
        registry.register("asked", "Times asked", counter);
        registry.register("open_total", "A gauge that is called so", Gauge::<i64>::default());
        let text = |format: Format| format.encode(&registry).unwrap_or_default();
        assert_eq!(
            text(Format::asked_for("")),
            "# HELP asked_total Times asked.\n# TYPE asked_total counter\nasked_total 3\n\
             # HELP open_total A gauge that is called so.\n# TYPE open_total gauge\nopen_total 0\n"
        );
        let newer = text(Format::asked_for("application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"));
        assert!(newer.starts_with("# HELP asked Times asked.\n# TYPE asked counter\nasked_total 3\n"), "{newer}");
        assert!(newer.ends_with("# EOF\n"), "{newer}");
    }
}
