//! Ctrl-C while children run.
//!
//! The terminal sends SIGINT to the whole process group: the children get it and end as they see fit (a lab takes its
//! namespaces away first). We must outlive them, to print what is known, and then say that it was not the whole.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn remember(_signal: i32) {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// From now on Ctrl-C ends the children only, and is remembered.
pub fn outlive_children() -> Result<()> {
    // A handler, not SIG_IGN: a handler is reset by exec, so that children begin with the default.
    let action = SigAction::new(SigHandler::Handler(remember), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler stores to an atomic and does nothing else, which is async-signal-safe.
    unsafe { sigaction(Signal::SIGINT, &action) }.context("could not set the handler of Ctrl-C")?;
    Ok(())
}

/// Whether there was a Ctrl-C since [`outlive_children`].
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
