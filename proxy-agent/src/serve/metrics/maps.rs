//! What is read from the maps when somebody asks: what the programs counted, and how large the maps are.
//!
//! The cost is bounded by what is in use: names are read once, counters of each CPU only up to the highest id that
//! has a name, and Service ports that never had a packet are left out.

use std::path::PathBuf;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use proxy_common::maps::{DropReason, FlowEvent, ServiceCounters, XdpAction};

use crate::kernel::{Map, MapError, MapSet};
use crate::model::ServicePort;
use crate::output::chain;

/// The maps under a folder of pins. They are opened for each reading, so that it is always the ones in use.
#[derive(Debug)]
pub struct PinnedMaps {
    folder: PathBuf,
}

impl PinnedMaps {
    /// The maps in this folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }
}

type Labels<'a> = [(&'static str, &'a str); 6];

impl Collector for PinnedMaps {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let maps = match MapSet::open(&self.folder) {
            Ok(maps) => maps,
            Err(error) => {
                tracing::warn!("metrics: {}", chain(&error));
                return Ok(());
            }
        };
        let mut capacity = encoder.encode_descriptor(
            "pointsman_map_capacity",
            "Entries that a map has room for.",
            None,
            MetricType::Gauge,
        )?;
        for (map, entries) in maps.capacities() {
            ConstGauge::new(entries).encode(capacity.encode_family(&[("map", map)])?)?;
        }
        let reasons = DropReason::ALL.map(DropReason::name);
        let help = "Packets that did not go on, by reason.";
        encode_array(&mut encoder, "pointsman_dropped_packets", help, "reason", &reasons, &maps.drop_stats)?;
        let actions = XdpAction::ALL.map(XdpAction::name);
        let help = "Packets that came in by a device with the XDP program, by what it did with them.";
        encode_array(&mut encoder, "pointsman_xdp_packets", help, "action", &actions, &maps.xdp_stats)?;
        let events = FlowEvent::ALL.map(FlowEvent::name);
        let help = "What happened in the tables of flows to make room for new flows, or because there was none.";
        encode_array(&mut encoder, "pointsman_flow_table_events", help, "event", &events, &maps.flow_stats)?;
        match services(&maps) {
            Ok(services) => encode_services(&mut encoder, &services),
            Err(error) => {
                tracing::warn!("metrics: {}", chain(&error));
                Ok(())
            }
        }
    }
}

fn encode_services(
    encoder: &mut DescriptorEncoder<'_>,
    services: &[(ServicePort, ServiceCounters)],
) -> Result<(), std::fmt::Error> {
    let texts: Vec<[String; 3]> = services
        .iter()
        .map(|(port, _)| [port.port.to_string(), port.protocol.to_string(), port.family.to_string()])
        .collect();
    let all = || {
        services.iter().zip(&texts).map(|((port, counters), [number, protocol, family])| {
            let labels: Labels<'_> = [
                ("service_namespace", &port.service.namespace),
                ("service_name", &port.service.name),
                ("port_name", &port.port_name),
                ("port", number),
                ("protocol", protocol),
                ("ip_family", family),
            ];
            (labels, counters)
        })
    };
    let counter = MetricType::Counter;
    let mut family = encoder.encode_descriptor("pointsman_service_flows", "Flows begun.", None, counter)?;
    for (labels, counters) in all() {
        ConstCounter::new(counters.flows).encode(family.encode_family(&labels)?)?;
    }
    let help = "Packets from clients (request) and to them (reply).";
    let mut family = encoder.encode_descriptor("pointsman_service_packets", help, None, counter)?;
    for (labels, counters) in all() {
        both_ways(&mut family, labels, counters.packets, counters.reply_packets)?;
    }
    let help = "Bytes from clients (request) and to them (reply), from the IP header on.";
    let mut family = encoder.encode_descriptor("pointsman_service_bytes", help, None, counter)?;
    for (labels, counters) in all() {
        both_ways(&mut family, labels, counters.bytes, counters.reply_bytes)?;
    }
    let help = "Packets refused because nobody serves.";
    let mut family = encoder.encode_descriptor("pointsman_service_refused_packets", help, None, counter)?;
    for (labels, counters) in all() {
        ConstCounter::new(counters.refused).encode(family.encode_family(&labels)?)?;
    }
    let help = "Packets of new flows dropped because no source port was free.";
    let mut family = encoder.encode_descriptor("pointsman_service_packets_without_port", help, None, counter)?;
    for (labels, counters) in all() {
        ConstCounter::new(counters.without_port).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn both_ways(
    family: &mut MetricEncoder<'_>,
    labels: Labels<'_>,
    request: u64,
    reply: u64,
) -> Result<(), std::fmt::Error> {
    for (direction, value) in [("request", request), ("reply", reply)] {
        let [a, b, c, d, e, f] = labels;
        ConstCounter::new(value).encode(family.encode_family(&[a, b, c, d, e, f, ("direction", direction)])?)?;
    }
    Ok(())
}

/// The Service ports that anything was counted for.
fn services(maps: &MapSet) -> Result<Vec<(ServicePort, ServiceCounters)>, MapError> {
    let mut names = Vec::new();
    maps.service.for_each(|id, name| {
        if let [name] = name
            && let Ok(port) = ServicePort::try_from(name)
        {
            names.push((id, port));
        }
    })?;
    let highest = names.iter().map(|(id, _)| *id).max().unwrap_or_default();
    let mut sums = vec![ServiceCounters::default(); highest as usize + 1];
    maps.service_stats.for_each_of_first(sums.len(), |id, cpus| {
        if let Some(sum) = sums.get_mut(id as usize) {
            *sum = ServiceCounters::sum(cpus);
        }
    })?;
    let counted = |id: u32| sums.get(id as usize).copied().filter(|sum| *sum != ServiceCounters::default());
    Ok(names.into_iter().filter_map(|(id, port)| Some((port, counted(id)?))).collect())
}

/// A counter for each entry of an array, which is called as `labels` say.
fn encode_array(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    labels: &[&'static str],
    map: &Map<u32, u64>,
) -> Result<(), std::fmt::Error> {
    let mut sums = vec![0_u64; labels.len()];
    let read = map.for_each(|index, cpus| {
        if let Some(sum) = sums.get_mut(index as usize) {
            *sum = cpus.iter().sum();
        }
    });
    if let Err(error) = read {
        tracing::warn!("metrics: {}", chain(&error));
        return Ok(());
    }
    let mut counters = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, sum) in labels.iter().zip(sums) {
        ConstCounter::new(sum).encode(counters.encode_family(&[(label, *value)])?)?;
    }
    Ok(())
}
