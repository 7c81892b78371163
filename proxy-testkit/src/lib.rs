//! Labs of network namespaces for Pointsman's tests and demo: nodes, pods, a client outside, agents, real
//! servers and real clients.
//!
//! Everything a lab makes lives in namespaces whose names begin with `pm<pid>`, in a folder of its own under the
//! temporary folder, in a control group for each node and, where agents run, in folders of its own under bpffs. All of it goes away when the lab
//! is dropped, when a test panics, on Ctrl-C and at the exit of the process; what a killed process left behind is
//! swept by the next lab. The machine's own network is never touched.
//!
//! Needs root, `ip` and `nft`; the agents need bpffs.

pub mod agent;
pub mod cache;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod lab;
pub mod manifest;
pub mod netns;
pub mod packets;
pub mod process;
pub mod raw;
pub mod server;
pub mod shell;
pub mod teardown;

pub use lab::{Host, Lab};
