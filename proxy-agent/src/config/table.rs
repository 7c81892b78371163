//! The table of settings: kube-proxy's name for each, and what it does here.
//!
//! The names are those of kube-proxy 1.37 (`cmd/kube-proxy/app/options.go` and
//! `staging/src/k8s.io/kube-proxy/config/v1alpha1/types.go`).

use std::time::Duration;

use proxy_common::maps::FlowConfig;
use serde_json::Value;

use super::{DetectLocal, Draft, HEALTHZ_PORT, LocalMode, METRICS_PORT, NodePortAddresses, value};

/// One setting.
pub(super) struct Row {
    /// Path in the file; empty where it is a flag only.
    pub field: &'static str,
    /// Name of the flag; empty where it is in the file only.
    pub flag: &'static str,
    /// What it does.
    pub action: Action,
}

/// What a setting does.
pub(super) enum Action {
    /// It is used. The flag says whether the value comes from a flag.
    Use(Form, fn(&mut Draft, &Value, Place<'_>) -> Result<(), String>),
    /// It is checked and named in the warning, unless it is empty or what kube-proxy does anyway.
    Ignore(Form, &'static str),
}

/// Where a value comes from.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub name: &'a str,
    pub is_flag: bool,
}

/// What a value looks like.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Text,
    OneOf(&'static [&'static str]),
    Switch,
    Number(i64, i64),
    /// A number; as a flag also nothing (`-v`) or more of the letter (`-vv`).
    Verbosity,
    Duration,
    /// More than zero.
    Period,
    Texts,
    Ranges,
    /// Anything, such as a map.
    Any,
}

impl Form {
    /// Checks a value.
    pub(super) fn check(self, value: &Value) -> Result<(), String> {
        match self {
            Self::Text => value::text(value).map(drop),
            Self::OneOf(allowed) => {
                let text = value::text(value)?;
                let is_allowed = text.is_empty() || allowed.contains(&text);
                is_allowed.then_some(()).ok_or_else(|| format!("'{text}' is not allowed: expected {}", either(allowed)))
            }
            Self::Switch => value::boolean(value).map(drop),
            Self::Number(min, max) => value::number(value, min, max).map(drop),
            Self::Verbosity => value::number(value, 0, i64::MAX).map(drop),
            Self::Duration | Self::Period => value::duration(value).map(drop),
            Self::Texts => value::texts(value).map(drop),
            Self::Ranges => value::texts(value)?.into_iter().try_for_each(|text| value::range(text).map(drop)),
            Self::Any => Ok(()),
        }
    }

    /// The value of a flag, which is text.
    pub(super) fn of_flag(self, text: &str) -> Value {
        match self {
            Self::Switch => match text {
                "true" | "1" | "t" | "T" | "TRUE" | "True" => Value::Bool(true),
                "false" | "0" | "f" | "F" | "FALSE" | "False" => Value::Bool(false),
                other => Value::from(other),
            },
            Self::Verbosity if text.chars().all(|c| c == 'v') => Value::from(if text.is_empty() { 4 } else { 6 }),
            Self::Number(..) | Self::Verbosity => text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from),
            _ => Value::from(text),
        }
    }
}

/// `a, b or c`.
pub(super) fn either(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

const LOCAL_MODES: &[&str] = &["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"];
const FOREVER: i64 = i64::MAX;

const fn used(
    field: &'static str,
    flag: &'static str,
    form: Form,
    set: fn(&mut Draft, &Value, Place<'_>) -> Result<(), String>,
) -> Row {
    Row { field, flag, action: Action::Use(form, set) }
}

const fn ignored(field: &'static str, flag: &'static str, form: Form, usual: &'static str) -> Row {
    Row { field, flag, action: Action::Ignore(form, usual) }
}

/// Every setting.
pub(super) static TABLE: &[Row] = &[
    used("hostnameOverride", "hostname-override", Form::Text, |draft, value, _| {
        let name = value::text(value)?.trim().to_lowercase();
        draft.settings.hostname_override = Some(name).filter(|name| !name.is_empty());
        Ok(())
    }),
    used("clientConnection.kubeconfig", "", Form::Text, |draft, value, _| {
        let path = value::text(value)?;
        draft.settings.kubeconfig = Some(path).filter(|path| !path.is_empty()).map(Into::into);
        Ok(())
    }),
    used("bindAddress", "bind-address", Form::Text, |draft, value, _| {
        draft.bind_address = match value::text(value)? {
            "" => None,
            text => Some(value::address(text)?),
        };
        Ok(())
    }),
    used("healthzBindAddress", "healthz-bind-address", Form::Text, |draft, value, place| {
        let text = value::text(value)?;
        // In the file an empty text is the default; only the flag turns the server off.
        if place.is_flag || !text.is_empty() {
            draft.healthz = Some(value::bind_address(text, HEALTHZ_PORT)?);
        }
        Ok(())
    }),
    used("metricsBindAddress", "metrics-bind-address", Form::Text, |draft, value, place| {
        let text = value::text(value)?;
        if place.is_flag || !text.is_empty() {
            draft.metrics = Some(value::bind_address(text, METRICS_PORT)?);
        }
        Ok(())
    }),
    used("bindAddressHardFail", "bind-address-hard-fail", Form::Switch, |draft, value, _| {
        draft.settings.bind_address_hard_fail = value::boolean(value)?;
        Ok(())
    }),
    used("clusterCIDR", "cluster-cidr", Form::Texts, |draft, value, _| {
        draft.settings.cluster_cidrs = value::ranges_of_cluster(&value::texts(value)?)?;
        Ok(())
    }),
    used("nodePortAddresses", "nodeport-addresses", Form::Texts, |draft, value, _| {
        draft.settings.node_port_addresses = node_port_addresses(&value::texts(value)?)?;
        Ok(())
    }),
    used("detectLocalMode", "detect-local-mode", Form::OneOf(LOCAL_MODES), |draft, value, place| {
        let mode = match value::text(value)? {
            // What a generated file has for "not set".
            "" => return Ok(()),
            "NodeCIDR" => LocalMode::NodeCidr,
            "BridgeInterface" => LocalMode::BridgeInterface,
            "InterfaceNamePrefix" => LocalMode::InterfaceNamePrefix,
            _ => LocalMode::ClusterCidr,
        };
        draft.local_mode = Some((place.name.to_owned(), mode));
        Ok(())
    }),
    used("detectLocal.bridgeInterface", "pod-bridge-interface", Form::Text, |draft, value, _| {
        draft.bridge_interface = device(value::text(value)?)?;
        Ok(())
    }),
    used("detectLocal.interfaceNamePrefix", "pod-interface-name-prefix", Form::Text, |draft, value, _| {
        draft.interface_name_prefix = device(value::text(value)?)?;
        Ok(())
    }),
    used("oomScoreAdj", "oom-score-adj", Form::Number(-1000, 1000), |draft, value, _| {
        draft.settings.oom_score_adj = Some(value::number(value, -1000, 1000)?);
        Ok(())
    }),
    // The mode that is named decides nothing here; what is set for any of them counts, the later rows first.
    used("ipvs.syncPeriod", "ipvs-sync-period", Form::Period, sync_period),
    used("iptables.syncPeriod", "iptables-sync-period", Form::Period, sync_period),
    used("nftables.syncPeriod", "", Form::Period, sync_period),
    used("iptables.masqueradeAll", "masquerade-all", Form::Switch, masquerade_all),
    used("nftables.masqueradeAll", "", Form::Switch, masquerade_all),
    ignored("mode", "proxy-mode", Form::OneOf(&["iptables", "ipvs", "nftables"]), ""),
    ignored("clientConnection.acceptContentTypes", "", Form::Text, ""),
    ignored("clientConnection.contentType", "kube-api-content-type", Form::Text, "application/vnd.kubernetes.protobuf"),
    ignored("clientConnection.qps", "kube-api-qps", Form::Any, "5"),
    ignored("clientConnection.burst", "kube-api-burst", Form::Number(0, FOREVER), "10"),
    ignored("configSyncPeriod", "config-sync-period", Form::Period, "15m0s"),
    ignored("enableProfiling", "profiling", Form::Switch, ""),
    used("featureGates", "feature-gates", Form::Any, feature_gates),
    used("logging.verbosity", "v", Form::Verbosity, |draft, value, _| {
        draft.settings.verbosity = u32::try_from(value::number(value, 0, FOREVER)?).unwrap_or(u32::MAX);
        Ok(())
    }),
    used("logging.format", "logging-format", Form::OneOf(&["text", "json"]), |draft, value, _| {
        draft.settings.logs_json = value::text(value)? == "json";
        Ok(())
    }),
    ignored("logging.flushFrequency", "log-flush-frequency", Form::Any, "5s"),
    ignored("logging.options", "", Form::Any, ""),
    ignored("logging.vmodule", "vmodule", Form::Any, ""),
    ignored("portRange", "proxy-port-range", Form::Text, ""),
    ignored("showHiddenMetricsForVersion", "show-hidden-metrics-for-version", Form::Text, ""),
    ignored("windowsRunAsService", "windows-service", Form::Switch, ""),
    ignored("winkernel", "", Form::Any, ""),
    used("iptables.localhostNodePorts", "iptables-localhost-nodeports", Form::Switch, |draft, value, _| {
        draft.settings.localhost_node_ports = value::boolean(value)?;
        Ok(())
    }),
    ignored("iptables.masqueradeBit", "iptables-masquerade-bit", Form::Number(0, 31), "14"),
    used("iptables.minSyncPeriod", "iptables-min-sync-period", Form::Duration, min_sync_period),
    ignored("nftables.masqueradeBit", "", Form::Number(0, 31), "14"),
    used("nftables.minSyncPeriod", "", Form::Duration, min_sync_period),
    ignored("ipvs.excludeCIDRs", "ipvs-exclude-cidrs", Form::Ranges, ""),
    used("ipvs.minSyncPeriod", "ipvs-min-sync-period", Form::Duration, min_sync_period),
    ignored("ipvs.scheduler", "ipvs-scheduler", Form::Text, ""),
    ignored("ipvs.strictARP", "ipvs-strict-arp", Form::Switch, ""),
    ignored("ipvs.tcpFinTimeout", "ipvs-tcpfin-timeout", Form::Duration, ""),
    ignored("ipvs.tcpTimeout", "ipvs-tcp-timeout", Form::Duration, ""),
    ignored("ipvs.udpTimeout", "ipvs-udp-timeout", Form::Duration, ""),
    ignored("conntrack.maxPerCore", "conntrack-max-per-core", Form::Number(0, FOREVER), "32768"),
    ignored("conntrack.min", "conntrack-min", Form::Number(0, FOREVER), "131072"),
    // Flows are never judged by TCP windows here.
    ignored("conntrack.tcpBeLiberal", "conntrack-tcp-be-liberal", Form::Switch, "true"),
    used("conntrack.tcpCloseWaitTimeout", "conntrack-tcp-timeout-close-wait", Form::Duration, |draft, value, _| {
        limit(&mut draft.settings.flow_limits.tcp_half_closed, value)
    }),
    used("conntrack.tcpEstablishedTimeout", "conntrack-tcp-timeout-established", Form::Duration, |draft, value, _| {
        limit(&mut draft.settings.flow_limits.tcp_established, value)
    }),
    used("conntrack.udpStreamTimeout", "conntrack-udp-timeout-stream", Form::Duration, |draft, value, _| {
        limit(&mut draft.settings.flow_limits.udp_answered, value)
    }),
    used("conntrack.udpTimeout", "conntrack-udp-timeout", Form::Duration, |draft, value, _| {
        limit(&mut draft.settings.flow_limits.udp_unanswered, value)
    }),
    used("", "healthz-port", Form::Number(0, 65535), |draft, value, _| {
        draft.healthz_port = u16::try_from(value::number(value, 0, 65535)?).ok();
        Ok(())
    }),
    used("", "metrics-port", Form::Number(0, 65535), |draft, value, _| {
        draft.metrics_port = u16::try_from(value::number(value, 0, 65535)?).ok();
        Ok(())
    }),
    used("", "init-only", Form::Switch, |draft, value, _| {
        draft.settings.init_only = value::boolean(value)?;
        Ok(())
    }),
    ignored("", "write-config-to", Form::Text, ""),
    ignored("", "cleanup-iptables", Form::Switch, ""),
];

fn sync_period(draft: &mut Draft, value: &Value, _: Place<'_>) -> Result<(), String> {
    // Zero is what a generated file has for "not set".
    let period = value::duration(value)?;
    if !period.is_zero() {
        draft.settings.sync_period = period;
    }
    Ok(())
}

/// A map in the file, `NAME=true,...` as a flag. The one gate that means something here is taken.
fn feature_gates(draft: &mut Draft, value: &Value, place: Place<'_>) -> Result<(), String> {
    let mut gates = Vec::new();
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                gates.push((name.as_str(), value::boolean(value)?));
            }
        }
        Value::String(_) => {
            for text in value::texts(value)? {
                let wrong = || format!("'{text}' is not a feature gate: expected NAME=true or NAME=false");
                let (name, is_on) = text.split_once('=').ok_or_else(wrong)?;
                gates.push((name.trim(), is_on.trim().parse::<bool>().map_err(|_| wrong())?));
            }
        }
        Value::Null => {}
        other => return Err(format!("{} is not a map of feature gates", value::shown(other))),
    }
    let external_ips = |(name, is_on)| (name == "AllowServiceExternalIPs").then_some(is_on);
    if let Some(is_on) = gates.iter().copied().find_map(external_ips) {
        draft.settings.external_ips = is_on;
    }
    if gates.iter().any(|gate| external_ips(*gate).is_none()) {
        draft.settings.not_applicable.push(place.name.to_owned());
    }
    Ok(())
}

/// kube-proxy's usual second spares it from rewriting its rules; it is in files that nobody wrote for its sake, and
/// means nothing here.
fn min_sync_period(draft: &mut Draft, value: &Value, _: Place<'_>) -> Result<(), String> {
    let period = value::duration(value)?;
    if !period.is_zero() && period != Duration::from_secs(1) {
        draft.settings.min_sync_period = period;
    }
    Ok(())
}

/// A time-out of flows, in whole seconds, rounded up. Zero leaves it as it is, as with kube-proxy.
fn limit(seconds: &mut u32, value: &Value) -> Result<(), String> {
    let given = value::duration(value)?.as_millis().div_ceil(1000);
    if given != 0 {
        *seconds = u32::try_from(given).unwrap_or(u32::MAX).min(FlowConfig::SECONDS);
    }
    Ok(())
}

fn masquerade_all(draft: &mut Draft, value: &Value, _: Place<'_>) -> Result<(), String> {
    draft.settings.masquerade_all |= value::boolean(value)?;
    Ok(())
}

fn node_port_addresses(texts: &[&str]) -> Result<NodePortAddresses, String> {
    let keyword = |text: &str| match text {
        "primary" => Some(NodePortAddresses::Primary),
        "localhost" => Some(NodePortAddresses::Localhost),
        "all" => Some(NodePortAddresses::All),
        _ => None,
    };
    match texts {
        [] => Ok(NodePortAddresses::default()),
        [one] if keyword(one).is_some() => Ok(keyword(one).unwrap_or_default()),
        _ => {
            let wrong = |text: &&str| {
                let message = if keyword(text).is_some() { "stands alone" } else { "is not a range of addresses" };
                format!("'{text}' {message}: expected ranges like 10.0.0.0/8, or one of primary, localhost or all")
            };
            let ranges = texts.iter().map(|text| value::range(text).map_err(|_| wrong(text)));
            Ok(NodePortAddresses::Ranges(ranges.collect::<Result<_, _>>()?))
        }
    }
}

/// The name of a device, or its beginning.
fn device(text: &str) -> Result<Option<String>, String> {
    // IFNAMSIZ is 16, with the zero at the end.
    let is_name = text.len() < 16 && !text.contains(|c: char| c == '/' || c.is_whitespace());
    if !is_name {
        return Err(format!("'{text}' is not the name of a device: expected up to 15 characters, no space and no /"));
    }
    Ok(Some(text.to_owned()).filter(|name| !name.is_empty()))
}

/// Applies a value to the settings being read.
pub(super) fn apply(row: &Row, draft: &mut Draft, value: &Value, place: Place<'_>) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    match row.action {
        Action::Use(form, set) => {
            form.check(value)?;
            set(draft, value, place)
        }
        Action::Ignore(form, usual) => {
            form.check(value)?;
            if !is_empty(value) && !is_usual(form, value, usual) {
                draft.settings.not_applicable.push(place.name.to_owned());
            }
            Ok(())
        }
    }
}

/// Whether a value is what a generated file has for "not set".
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || value::duration(value).is_ok_and(|duration| duration.is_zero()),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

fn is_usual(form: Form, value: &Value, usual: &str) -> bool {
    match (form, value) {
        (Form::Duration | Form::Period, value) => {
            let usual = value::duration(&Value::from(usual));
            usual.is_ok() && usual == value::duration(value)
        }
        (_, Value::String(text)) => text == usual,
        (_, other) => usual.parse::<Value>().is_ok_and(|usual| usual == *other),
    }
}

impl DetectLocal {
    /// As kube-proxy names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ClusterCidr => "ClusterCIDR",
            Self::NodeCidr => "NodeCIDR",
            Self::BridgeInterface(_) => "BridgeInterface",
            Self::InterfaceNamePrefix(_) => "InterfaceNamePrefix",
        }
    }
}
