//! What the kernel programs and the agent share.
//!
//! - [`addr`]: the two address families, and all that differs between them;
//! - [`maps`]: keys and values of the BPF maps, the one contract between agent and programs;
//! - [`maglev`]: tables by which every node sends a flow from outside to the same backend;
//! - [`flows`]: the table of flows;
//! - [`blank`](mod@blank): memory that is all zero;
//! - [`datapath`]: the packet core, the same source in tc, XDP and host tests.
//!
//! Invariants: no_std, no allocation, no panic path (the verifier would refuse it), no packet access but
//! through [`datapath::Packet`], no state but through [`datapath::Env`].
#![no_std]
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics, asm_experimental_arch),
    expect(internal_features, reason = "the atomic types of `core` lack all but loads and stores on this target")
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "what is cast has been bounded by a mask, a shift or a header's length; a checked conversion would be one \
              more branch for each packet, or a panic path that the verifier refuses"
)]

pub mod addr;
pub mod blank;
pub mod datapath;
pub mod flows;
pub mod maglev;
pub mod maps;
