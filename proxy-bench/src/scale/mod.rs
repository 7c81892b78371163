//! The suite `scale`: what a proxy's control plane costs, against a real API server, one proxy after the other.
//!
//! | module | what it measures |
//! |---|---|
//! | `start` | a cold start, and a restart with everything in the kernel |
//! | `change` | one endpoint changed, time and again, until its traffic goes elsewhere |
//! | `storm` | many changes a second |
//!
//! Time is that of a clock on the wall, with the API server, etcd and the proxy on the same CPUs, as peers.

mod change;
mod start;
mod storm;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::ground::Ground;
use crate::ground::objects::PORTS;
use crate::ground::proxy::Proxy;
use crate::ground::subject::Subject;
use crate::names::kept;
use crate::report::{Figure, rounded};

const SUITE: &str = "scale";

/// The Service that is asked: by name the last one.
const PROBE: &str = "probe";

/// How much is in the cluster and what is done to it.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Services.
    pub services: usize,
    /// Endpoints of each.
    pub endpoints: usize,
    /// How often one endpoint is changed, for us and for others, who take longer.
    tries: [usize; 2],
    /// For how long many are changed.
    storm: Duration,
    /// Changes a second.
    rate: f64,
}

impl Effort {
    const QUICK: Self = Self { services: 40, endpoints: 2, tries: [10, 3], storm: Duration::from_secs(2), rate: 50.0 };

    /// A cluster of this size.
    fn full(services: usize, endpoints: usize) -> Self {
        Self { services, endpoints, tries: [200, 10], storm: Duration::from_secs(60), rate: 1_000.0 }
    }

    /// The size as it is in the names of figures.
    fn name(&self) -> String {
        format!("{}x{}", self.services, self.endpoints)
    }

    /// The agent's flags for the sizes of its maps, where those by default are too small.
    fn sizes(&self) -> Vec<String> {
        let ports = self.services + 2 * PORTS.len();
        let backends = self.services * self.endpoints + 2 * PORTS.len();
        let mut flags = Vec::new();
        for (flag, needed, default) in [
            ("max-services", ports + 2, 16_384),
            ("max-frontends", ports * 2, 65_536),
            ("max-backends", backends + 2, 131_072),
            ("max-slots", backends * 2, 262_144),
            ("max-ranges", ports * 2, 131_072),
        ] {
            if needed > default {
                flags.push(format!("--{flag}={}", needed.next_power_of_two()));
            }
        }
        flags
    }
}

/// Measures everything.
pub fn run(is_quick: bool, sizes: &[(usize, usize)], others: &[Subject]) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if is_quick {
        return one_size(Effort::QUICK, others);
    }
    for (services, endpoints) in sizes {
        figures.extend(one_size(Effort::full(*services, *endpoints), others)?);
    }
    Ok(figures)
}

fn one_size(effort: Effort, others: &[Subject]) -> Result<Vec<Figure>> {
    let mut subjects = vec![Subject::Tc];
    subjects.extend_from_slice(others);
    let ground = Ground::new(&subjects)?;
    eprintln!("creating {} Services with {} endpoints each", effort.services, effort.endpoints);
    let began = Instant::now();
    ground.load(0..effort.services, effort.endpoints)?;
    eprintln!("took {:.0} s", began.elapsed().as_secs_f64());
    let mut bench = Bench {
        at: ground.serve(PROBE, None, &[&ground.backend.a])?,
        ground,
        effort,
        subject: Subject::Direct,
        figures: Vec::new(),
        is_at_b: false,
    };
    for subject in subjects {
        bench.subject = subject;
        bench.measure().with_context(|| format!("measuring {}", subject.name()))?;
    }
    compare(&mut bench.figures);
    Ok(bench.figures)
}

/// Each figure of ours as a ratio to kube-proxy's nftables mode, or else to iptables mode.
fn compare(figures: &mut [Figure]) {
    let known: Vec<_> = figures.iter().map(|figure| (figure.case, figure.subject, figure.unit, figure.value)).collect();
    for figure in figures.iter_mut().filter(|figure| figure.subject == Subject::Tc.name()) {
        for other in [Subject::Nftables, Subject::Iptables] {
            let theirs = known.iter().find(|(case, subject, unit, value)| {
                (*case, *subject, *unit) == (figure.case, other.name(), figure.unit) && *value > 0.0
            });
            if let Some((.., value)) = theirs
                && figure.baseline.is_none()
            {
                figure.baseline = Some(other.name());
                figure.ratio = Some(rounded(figure.value / value, 3));
            }
        }
    }
}

struct Bench {
    ground: Ground,
    effort: Effort,
    subject: Subject,
    /// The address of the Service that is asked.
    at: Ipv4Addr,
    /// Its endpoint is the second one, and not the first.
    is_at_b: bool,
    figures: Vec<Figure>,
}

impl Bench {
    fn measure(&mut self) -> Result<()> {
        eprintln!("measuring {}", self.subject.name());
        let Some(mut proxy) = self.start_cold()? else { return Ok(()) };
        self.change_often(&proxy)?;
        self.storm(&proxy)?;
        self.restart(&mut proxy)
    }

    /// Where the Service is asked.
    fn probe(&self) -> SocketAddr {
        let port = PORTS.iter().find(|port| port.0 == "ask").map_or(0, |port| port.2);
        SocketAddr::new(self.at.into(), port)
    }

    /// The name of the endpoint that the Service has now.
    fn endpoint(&self) -> &str {
        let backend = &self.ground.backend;
        if self.is_at_b { &backend.b.name } else { &backend.a.name }
    }

    fn figure(&mut self, case: &str, value: f64, unit: &'static str) {
        self.figure_with(case, value, unit, None);
    }

    fn figure_with(&mut self, case: &str, value: f64, unit: &'static str, median: Option<f64>) {
        eprintln!("  {case}: {value:.2} {unit}");
        self.figures.push(Figure {
            suite: SUITE,
            case: kept(format!("{case}/{}", self.effort.name())),
            subject: self.subject.name(),
            family: Some("ipv4"),
            protocol: None,
            value: rounded(value, 3),
            unit,
            median: median.map(|median| rounded(median, 3)),
            baseline: None,
            ratio: None,
        });
    }

    /// What the proxy uses right now.
    fn usage(&self, proxy: &Proxy) -> Result<crate::ground::usage::Usage> {
        crate::ground::usage::Usage::of(proxy.pid()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_made_larger_only_where_they_have_to_be() {
        assert!(Effort::full(10_000, 10).sizes().is_empty());
        let sizes = Effort::full(50_000, 2).sizes();
        assert_eq!(sizes, ["--max-services=65536", "--max-frontends=131072"]);
    }

    #[test]
    fn ours_are_compared_with_theirs() {
        let figure = |subject, value| Figure {
            suite: SUITE,
            case: "a",
            subject,
            family: None,
            protocol: None,
            value,
            unit: "s",
            median: None,
            baseline: None,
            ratio: None,
        };
        let mut figures = [figure("tc", 1.0), figure("kube-proxy-iptables", 8.0), figure("kube-proxy-nftables", 4.0)];
        compare(&mut figures);
        assert_eq!((figures[0].baseline, figures[0].ratio), (Some("kube-proxy-nftables"), Some(0.25)));
        assert_eq!(figures[1].ratio, None);
    }
}
