//! Where the workspace is, and cargo called in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// The cargo that called us: the same toolchain, without another look through rustup.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // `cargo run` sets these for us; they would speak of the wrong package further down.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(root());
    cargo
}

/// The folder in which cargo keeps what it downloads and installs.
pub fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

/// The path of a binary among the messages of a build (`--message-format=json`).
pub fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).find_map(|message| {
        let is_it = message["reason"] == "compiler-artifact" && message["target"]["name"] == name;
        let path = message["executable"].as_str().filter(|_| is_it)?;
        Some(PathBuf::from(path))
    })
}

/// Builds the agent, unless the environment names one. Labs find it beside this program.
pub fn build_agent() -> Result<()> {
    if std::env::var_os("POINTSMAN_AGENT").is_some() {
        return Ok(());
    }
    let status = cargo().args(["build", "--bin=proxy-agent"]).status().context("could not run cargo build")?;
    if !status.success() {
        bail!("the agent does not build, see above");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_found_among_the_messages_of_the_build() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"name":"libc"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"proxy-agent"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"proxy-agent"},"executable":"/target/debug/proxy-agent"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(executable(messages, "proxy-agent"), Some("/target/debug/proxy-agent".into()));
        assert_eq!(executable(messages, "other"), None);
    }
}
