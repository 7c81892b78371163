//! `cargo xtask demo`: what Pointsman does, shown with real packets.
//!
//! Two nodes with three pods each and a client outside, all network namespaces of this machine, with one agent a node. Each
//! step checks what it shows; the first that is not as it should be ends the demo with an error. Everything is taken away at
//! the end, after Ctrl-C too.

mod changes;
mod inside;
mod reach;
mod story;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use proxy_testkit::manifest::Published;
use proxy_testkit::{Lab, teardown};

use crate::setup::{self, Needs};
use crate::workspace;
use story::say;

/// Show it: two nodes, pods and a client outside, with real traffic; takes about ten seconds
#[derive(clap::Args)]
pub struct Args {
    /// Leave everything up at the end, to look around, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

const PICTURE: &str = "
      pod1a pod1b pod1c                  pod2a pod2b pod2c
        └─────┼─────┘                      │     │     │
         bridge, node1 ───── switch ───── node2 ─┴─────┘
                               │
                         client outside

  Pods of node1 share a bridge, those of node2 have a route each; a VXLAN tunnel joins them. On each node
  runs one agent, and packets pass as on a strict node: reverse path filters, a CNI's masquerade rule, and a
  firewall that drops what its connection tracking does not understand.";

/// The verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Needs::Kernel)?;
    workspace::build_agent()?;
    let started = Instant::now();
    let mut lab = Lab::standard()?;
    say!("{}", story::bold("Pointsman: who sets the points, so that each train finds its track."));
    say!("{PICTURE}");
    say!("\n  All of it stands after {:.1} s. Manifests lie in {}.", secs(started), lab.manifests().folder().display());
    let mut kept = Vec::new();
    let told = tell(&mut lab, &mut kept);
    if let Err(error) = &told {
        say!("\n  {} {error:#}", story::red("✗ This is not as it should be:"));
        for agent in lab.agents() {
            let log = agent.log();
            let lines: Vec<_> = log.lines().collect();
            let end = lines.iter().skip(lines.len().saturating_sub(10));
            say!("\n  The end of the log of {}'s agent:", agent.node());
            end.for_each(|line| say!("    {line}"));
        }
    }
    if args.keep {
        inside::tell_how_to_enter(&lab)?;
        teardown::wait_for_the_end();
    }
    drop((kept, lab));
    told?;
    say!("\n{} Everything was taken away again.", story::green(&format!("Done in {:.0} s.", secs(started))));
    Ok(ExitCode::SUCCESS)
}

/// All chapters. What is to outlive them is kept.
fn tell(lab: &mut Lab, kept: &mut Vec<Published>) -> Result<()> {
    let (web, published) = reach::a_cluster_ip_spreads(lab)?;
    kept.push(published);
    reach::again_in_ipv6(lab, &web)?;
    reach::from_outside(lab, &web)?;
    reach::over_udp(lab)?;
    changes::endpoints_come_and_go(lab)?;
    changes::nobody_serves(lab)?;
    changes::the_agent_dies(lab)?;
    inside::what_the_kernel_holds(lab)?;
    let invalid = lab.invalid_packets()?;
    story::verify(invalid == 0, || format!("the nodes' firewalls dropped {invalid} packets as invalid"))?;
    story::fact("In all this, the nodes' own connection tracking called not one packet invalid.");
    Ok(())
}

fn secs(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
