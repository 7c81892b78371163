//! Time-outs of flows that kube-proxy has no setting for.

use clap::ValueEnum;
use proxy_common::maps::{FlowConfig, FlowLimits};
use serde_json::Value;

use super::value;

/// Which flows a time-out is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// TCP, with a SYN that nobody answered.
    TcpSyn,
    /// TCP, answered, before the client's next packet.
    TcpOpening,
    /// TCP, with a FIN of both sides.
    TcpClosed,
    /// TCP and SCTP, after a RST or an ABORT.
    Reset,
    /// SCTP in one direction only.
    SctpOpening,
    /// SCTP in both directions.
    Sctp,
}

/// After how many seconds without a packet flows of a kind are over: `tcp-syn=30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTimeout {
    kind: Kind,
    seconds: u32,
}

impl FlowTimeout {
    /// Sets it.
    pub fn apply(self, limits: &mut FlowLimits) {
        let limit = match self.kind {
            Kind::TcpSyn => &mut limits.tcp_unanswered,
            Kind::TcpOpening => &mut limits.tcp_unconfirmed,
            Kind::TcpClosed => &mut limits.tcp_closed,
            Kind::Reset => &mut limits.reset,
            Kind::SctpOpening => &mut limits.sctp_unanswered,
            Kind::Sctp => &mut limits.sctp_answered,
        };
        *limit = self.seconds;
    }
}

impl std::str::FromStr for FlowTimeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || {
            let names = Kind::value_variants().iter().filter_map(ValueEnum::to_possible_value);
            names.map(|name| name.get_name().to_owned()).collect::<Vec<_>>().join(", ")
        };
        let (name, duration) = text.trim().split_once('=').ok_or("expected KIND=DURATION, such as tcp-syn=30s")?;
        let kind = Kind::from_str(name, false)
            .map_err(|_| format!("there are no flows of the kind '{name}'; there are those of {}", known()))?;
        let duration = value::duration(&Value::from(duration))?;
        let seconds = u32::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).min(FlowConfig::SECONDS);
        if seconds == 0 {
            return Err(format!("{name}: flows need a second at least"));
        }
        Ok(Self { kind, seconds })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn a_kind_and_a_duration() {
        let parse = |text: &str| text.parse::<FlowTimeout>();
        assert_eq!(parse("tcp-syn=1m30s"), Ok(FlowTimeout { kind: Kind::TcpSyn, seconds: 90 }));
        assert_eq!(parse("sctp=1.2s"), Ok(FlowTimeout { kind: Kind::Sctp, seconds: 2 }));
        for wrong in ["tcp-syn", "tcp-sin=1s", "tcp-syn=1", "reset=0", "=1s"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let error = parse("udp=1s").unwrap_err();
        assert!(error.contains("tcp-syn, tcp-opening, tcp-closed, reset, sctp-opening, sctp"), "{error}");
    }

    #[test]
    fn each_kind_is_another_limit() {
        let mut limits = FlowLimits::DEFAULT;
        for (number, kind) in (1..).zip(Kind::value_variants()) {
            FlowTimeout { kind: *kind, seconds: number }.apply(&mut limits);
        }
        let FlowLimits { tcp_established, tcp_half_closed, udp_unanswered, udp_answered, .. } = FlowLimits::DEFAULT;
        let expected = FlowLimits {
            tcp_unanswered: 1,
            tcp_unconfirmed: 2,
            tcp_closed: 3,
            reset: 4,
            sctp_unanswered: 5,
            sctp_answered: 6,
            tcp_established,
            tcp_half_closed,
            udp_unanswered,
            udp_answered,
        };
        assert_eq!(limits, expected);
    }
}
