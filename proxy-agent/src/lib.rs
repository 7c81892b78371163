//! Pointsman's agent as a library: all that the binary, the tests and the tools share.
//!
//! One way: an [`event::Event`] changes the [`store::Store`], [`model`] works out what the kernel should hold,
//! [`plan`] the operations that make it so, and the map writer applies them. `model` and `plan` are pure: no
//! clock, no Kubernetes client, no BPF; what they decide, they return.

pub mod cli;
pub mod commands;
pub mod config;
pub mod devices;
pub mod event;
pub mod events;
pub mod kernel;
pub mod last_state;
pub mod model;
pub mod object;
pub mod output;
pub mod plan;
pub mod run;
pub mod serve;
pub mod store;
pub mod watch;
