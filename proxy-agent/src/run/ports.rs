//! Telling which Services' new flows found no source port.
//!
//! The programs count such packets by Service port (`ServiceCounters::without_port`). These counters are many, so they are read
//! only where the two reasons to drop such a packet, of which there is one counter each, say that there are more.

use std::collections::BTreeMap;

use proxy_common::flows::MASQUERADE_PORTS;
use proxy_common::maps::{DropReason, ServiceCounters};

use crate::kernel::{MapError, MapSet};
use crate::model::ServicePort;

/// Why such packets are dropped.
const REASONS: [DropReason; 2] = [DropReason::MasqueradePorts, DropReason::PortClash];

/// How many packets of new flows had found no source port when that was last looked at.
#[derive(Debug, Default)]
pub(super) struct PortLack {
    known: Option<Known>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    dropped: u64,
    /// By the id of the Service port; where there are none it is left out.
    services: BTreeMap<u32, u64>,
}

impl PortLack {
    /// Looks again: how many more there are, by the id of the Service port. The first look tells of none, as those may have
    /// been told before the agent was started.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(super) fn look(&mut self, maps: &MapSet) -> Result<BTreeMap<u32, u64>, MapError> {
        let mut dropped = 0;
        maps.drop_stats.for_each(|reason, cpus| {
            if REASONS.iter().any(|it| *it as u32 == reason) {
                dropped += cpus.iter().sum::<u64>();
            }
        })?;
        let mut services = BTreeMap::new();
        if self.known.as_ref().is_some_and(|known| known.dropped == dropped) {
            return Ok(services);
        }
        if dropped > 0 {
            maps.service_stats.for_each(|id, cpus| match ServiceCounters::sum(cpus).without_port {
                0 => {}
                packets => drop(services.insert(id, packets)),
            })?;
        }
        let before = self.known.replace(Known { dropped, services: services.clone() });
        Ok(before.map_or_else(BTreeMap::new, |before| before.more(services)))
    }
}

impl Known {
    /// What has been added since. Less than before is another Service port under the same id, or another map.
    fn more(&self, now: BTreeMap<u32, u64>) -> BTreeMap<u32, u64> {
        let more = now.into_iter().map(|(id, packets)| match self.services.get(&id) {
            Some(before) if *before <= packets => (id, packets - before),
            _ => (id, packets),
        });
        more.filter(|(_, packets)| *packets > 0).collect()
    }
}

/// What is to be said of a Service port.
pub(super) fn message(port: &ServicePort, packets: u64) -> String {
    format!(
        "Service {port} ({}): {packets} packets of new flows were dropped, as no source port was found free for another flow to \
         their backend (masqueraded flows have the ports {} to {}); what is established goes on. More endpoints have more room",
        port.family,
        MASQUERADE_PORTS.start,
        MASQUERADE_PORTS.end - 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told() {
        let known = Known { dropped: 9, services: [(1, 5), (2, 4)].into() };
        for (now, more) in [
            (&[(1, 5), (2, 4)][..], &[][..]),
            (&[(1, 7), (2, 4)], &[(1, 2)]),
            (&[(1, 5), (2, 4), (3, 1)], &[(3, 1)]),
            (&[(1, 2), (2, 4)], &[(1, 2)]),
            (&[(2, 4)], &[]),
        ] {
            assert_eq!(known.more(now.iter().copied().collect()), more.iter().copied().collect());
        }
    }
}
