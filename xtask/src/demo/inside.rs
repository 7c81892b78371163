//! What the kernel holds, and how to go and see.

use std::process::Command;

use anyhow::{Context as _, Result};
use proxy_testkit::Lab;
use proxy_testkit::lab::Protocol;
use proxy_testkit::manifest::Service;
use proxy_testkit::server::HTTP;
use proxy_testkit::shell;

use super::story::{bold, chapter, dim, fact, say, verify};

/// Lines of a dump that are enough to see what it is like.
const EXCERPT: usize = 24;

/// The frontends as a table, and one map as bpftool shows it.
pub fn what_the_kernel_holds(lab: &Lab) -> Result<()> {
    let service = Service::new("shop", 15).port(Protocol::Tcp, 80, HTTP).backends([&lab.node1.a, &lab.node2.a]);
    let _published = lab.publish(&service)?;
    let agent = lab.agents().first().context("there is no agent")?;
    chapter("What the kernel of node1 holds", "Read from the pinned maps; the agent itself need not run for that.");
    say!("    {}", dim(&format!("$ proxy-agent frontends --pin-path {}", agent.pins().display())));
    let table = agent.look("frontends")?;
    table.lines().for_each(|line| say!("    {line}"));
    verify(table.contains("shop"), || "the table does not list the Service `shop`".into())?;

    let pin = agent.pin_of("frontend_v4")?;
    say!("\n    {}", dim(&format!("$ bpftool map dump pinned {}", pin.display())));
    let dump = shell::run(Command::new("bpftool").args(["map", "dump", "pinned"]).arg(&pin))?;
    let lines: Vec<_> = dump.lines().collect();
    lines.iter().take(EXCERPT).for_each(|line| say!("    {line}"));
    if lines.len() > EXCERPT {
        say!("    {}", dim(&format!("... and {} lines more", lines.len() - EXCERPT)));
    }
    verify(dump.contains("\"addr\""), || "the dump has no field names".into())?;
    fact("Any BPF tool can read along: keys and values print with their names.");
    Ok(())
}

/// For those who want to look around.
pub fn tell_how_to_enter(lab: &Lab) -> Result<()> {
    let agent = lab.agents().first().context("there is no agent")?;
    let (binary, pins) = (agent.binary().display(), agent.pins().display());
    let enter = |host: &proxy_testkit::Host| format!("nsenter --net={}", host.ns.path().display());
    say!("\n{}", bold("Everything stays up until you press Ctrl-C here."));
    say!("\n  As root, in another terminal. Enter any machine:");
    for host in [&lab.node1.host, &lab.node1.a, &lab.node2.host, &lab.node2.a, &lab.client] {
        say!("    {:<60} # {}", enter(host), host.name);
    }
    say!("\n  Ask a Service from a pod, and from outside:");
    say!("    {} curl -s http://10.96.0.10/", enter(&lab.node1.c));
    say!("    {} curl -s http://{}:30080/", enter(&lab.client), lab.node1.host.v4);
    say!("\n  Look into node1's maps (also: backends, flows, counters):");
    say!("    {binary} frontends --pin-path {pins}");
    say!("    bpftool map dump pinned {}", agent.pin_of("backend_v4")?.display());
    say!("\n  Change a Service or write a new one; both agents take it up at once:");
    say!("    $EDITOR {}/web.yaml", lab.manifests().folder().display());
    Ok(())
}
