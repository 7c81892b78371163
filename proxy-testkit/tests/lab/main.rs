//! Real traffic through real agents, in network namespaces: `cargo test -p proxy-testkit --test lab`.
//!
//! Needs root and the agent's binary. Tests take turns; most share one lab, each with Services of its own.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end at the first thing that is not as it should be")]

mod common;
mod ground;
