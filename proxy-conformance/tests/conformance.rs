//! Runs the scenario files: `cargo test -p proxy-conformance --test conformance [-- PART_OF_A_NAME...]`.
//!
//! A test is a scenario on an executor, named `FILE: SCENARIO (host)` or `(lab)`. Prints what libtest prints, and the table.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance");
    let filters: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    proxy_conformance::suite::run(&folder, &filters)
}
