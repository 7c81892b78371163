//! Scenario files about Services, and two executors that run them.
//!
//! A scenario (`conformance/*.scenario`; their format is in `conformance/README.md`) says which objects there are, who asks
//! which address, and what must come of it. [`run`](run::run) puts it to an [`Executor`](run::Executor):
//!
//! - [`host`]: the objects go through the agent's store, model and plan into maps in memory, and packets through the packet
//!   core, on a network of two nodes that is a few hundred lines of Rust. No kernel, no time passes;
//! - [`lab`]: real agents, real sockets, network namespaces.
//!
//! Invariant: nothing here knows a rule of Services. What must happen is in the files alone.

pub mod host;
pub mod lab;
pub mod options;
pub mod places;
pub mod report;
pub mod run;
pub mod scenario;
pub mod suite;
