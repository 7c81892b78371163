//! What lasts when the agent does not: `cargo test -p proxy-testkit --test lasting`.
//!
//! Agents are killed, restarted, upgraded, outgrown and tampered with while real traffic runs: new connections, held
//! ones and UDP, of which none may be lost and none misdirected. Needs root and the agent's binary.
//! docs/reliability.md tells what comes of it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end at the first thing that is not as it should be")]

mod backends;
mod clash;
#[path = "../lab/common.rs"]
#[expect(dead_code, reason = "shared with the suite `lab`, which uses all of it")]
mod common;
mod devices;
mod drift;
mod exhaustion;
mod flood;
mod growth;
mod metrics;
mod restart;
mod reuse;
mod sockets;
mod tables;
mod timeouts;
mod traffic;
mod upgrade;
