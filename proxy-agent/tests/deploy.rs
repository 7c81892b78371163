//! What `deploy/` says to the agent, and of it: arguments, settings, ports, the names of metrics.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use proxy_agent::cli::{Cli, Command, RunArgs};
use proxy_agent::config::Settings;
use proxy_common::maps::LAYOUT;
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(path: &str) -> Result<String> {
    let path = deploy().join(path);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn agent_container() -> Result<Value> {
    let daemon_set: Value = serde_saphyr::from_str(&read("base/daemonset.yaml")?)?;
    daemon_set.pointer("/spec/template/spec/containers/0").cloned().context("no container")
}

fn run_args(api_servers: &str) -> Result<RunArgs> {
    let container = agent_container()?;
    let args = container["args"].as_array().context("no arguments")?;
    let args = args.iter().filter_map(Value::as_str).map(|arg| arg.replace("$(API_SERVERS)", api_servers));
    match Cli::try_parse_from(std::iter::once("proxy-agent".to_owned()).chain(args))?.command {
        Command::Run(args) => Ok(*args),
        other => anyhow::bail!("not the command `run`: {other:?}"),
    }
}

#[test]
fn the_arguments_of_the_container_are_those_of_the_agent() -> Result<()> {
    assert_eq!(run_args("https://a:6443,https://b:6443")?.api_servers, ["https://a:6443", "https://b:6443"]);
    let args = run_args("")?;
    assert!(args.api_servers.iter().all(String::is_empty), "{:?}", args.api_servers);
    assert_eq!(args.config.as_deref(), Some(Path::new("/etc/pointsman/config.conf")));
    Ok(())
}

#[test]
fn every_configuration_is_taken_whole_and_has_the_ports_that_are_probed() -> Result<()> {
    let container = agent_container()?;
    let port = |name: &str| {
        let ports = container["ports"].as_array()?;
        ports.iter().find(|port| port["name"] == name)?["containerPort"].as_u64()
    };
    // Beside kube-proxy, both are other ones.
    for (file, healthz_shift, metrics_shift) in [
        ("base/config.conf", 0, 0),
        ("components/monitoring/config.conf", 0, 0),
        ("components/beside-kube-proxy/config.conf", 10, 20),
    ] {
        let settings = Settings::load(Some(&deploy().join(file)), &run_args("")?.kube_proxy)?;
        assert!(settings.not_applicable.is_empty(), "{file}: {:?}", settings.not_applicable);
        let healthz = settings.healthz_bind_address.context("no healthz")?;
        let metrics = settings.metrics_bind_address.context("no metrics")?;
        assert_eq!(Some(u64::from(healthz.port())), port("healthz").map(|port| port + healthz_shift), "{file}");
        assert_eq!(Some(u64::from(metrics.port())), port("metrics").map(|port| port + metrics_shift), "{file}");
        // Kubelet asks at the node's address.
        assert!(healthz.ip().is_unspecified(), "{file}: {healthz}");
    }
    Ok(())
}

#[test]
fn the_documented_layout_is_that_of_the_maps() -> Result<()> {
    assert!(read("../docs/maps.md")?.contains(&format!("(now {LAYOUT})")), "it is {LAYOUT}");
    Ok(())
}

#[test]
fn every_metric_of_the_dashboard_is_documented() -> Result<()> {
    let dashboard: Value = serde_json::from_str(&read("components/monitoring/pointsman.json")?)?;
    let documented = read("../docs/metrics.md")?;
    let mut count = 0;
    for panel in dashboard["panels"].as_array().context("no panels")? {
        for target in panel["targets"].as_array().context("no targets")? {
            let expression = target["expr"].as_str().context("no expression")?;
            let words = expression.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
            let prefixes = ["pointsman_", "kubeproxy_", "rest_client_", "process_"];
            for word in words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))) {
                let name = word.strip_suffix("_bucket").unwrap_or(word);
                assert!(documented.contains(&format!("`{name}`")), "{}: {name}", panel["title"]);
                count += 1;
            }
        }
    }
    assert!(count >= 20, "only {count} metrics in all panels");
    Ok(())
}
