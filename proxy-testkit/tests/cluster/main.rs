//! Real agents against a real API server, with real traffic: `cargo xtask test cluster`.
//!
//! Needs root, the agent's binary and Kubernetes' programs. Tests take turns and share one cluster; each has Services of
//! its own and leaves things as it found them.
#![expect(clippy::unwrap_used, reason = "tests end at the first thing that is not as it should be")]

mod access;
mod common;
mod kubectl;
mod odd;
mod outage;
mod ranges;
mod volume;
