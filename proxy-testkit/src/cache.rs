//! The folder for what is dear to make and fit for every clone: `cargo clean` leaves it alone.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// `$XDG_CACHE_HOME/pointsman`, or `~/.cache/pointsman`.
pub fn folder() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    Ok(base.context("neither HOME nor XDG_CACHE_HOME is set: there is no folder to keep things in")?.join("pointsman"))
}
