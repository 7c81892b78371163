//! Real traffic through real agents, in network namespaces: `cargo test -p proxy-testkit --test lab`.
//!
//! Needs root and the agent's binary. Tests take turns; most share one lab, each with Services of its own. They say what
//! they prove; `-- --nocapture` also shows figures.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end at the first thing that is not as it should be")]

mod affinity;
mod awkward;
mod bystanders;
mod changes;
mod clsact;
mod clusterip;
mod common;
mod ground;
mod headers;
mod nodeport;
mod pmtu;
mod policies;
mod refuse;
mod sockets;
mod surface;
mod variants;
mod volume;
mod xdp;
