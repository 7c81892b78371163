//! The packet table, run by the host's core.

use proxy_testkit::packets::{HostExecutor, Scenario, onward, run, scenarios};

fn holds(all: &[Scenario]) {
    let mut executor = HostExecutor::new();
    let mut failures = Vec::new();
    for scenario in all {
        if let Err(error) = run(scenario, &mut executor) {
            failures.push(format!("{error:#}"));
        }
    }
    println!("{} scenarios, {} failed", all.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn the_packet_table_holds_on_the_host() {
    holds(&scenarios());
}

#[test]
fn what_is_sent_on_holds_on_the_host() {
    holds(&onward());
}
