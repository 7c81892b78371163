//! The packet table, run by the host's core.

use proxy_testkit::packets::{HostExecutor, run, scenarios};

#[test]
fn the_packet_table_holds_on_the_host() {
    let mut executor = HostExecutor::new();
    let all = scenarios();
    let mut failures = Vec::new();
    for scenario in &all {
        if let Err(error) = run(scenario, &mut executor) {
            failures.push(format!("{error:#}"));
        }
    }
    println!("{} scenarios, {} failed", all.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
