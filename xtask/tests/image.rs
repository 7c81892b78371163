//! The image, made as a user makes it and taken apart again; and `kind` where it cannot work.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const NAME: &str = "registry.example/net/pointsman:test";
/// 2023-11-14T22:13:20Z.
const DATE: &str = "1700000000";

fn xtask(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(args);
    command
}

/// Makes the image. A profile that builds soon will do: only the optimisation differs.
fn image(path: &Path) -> Result<Vec<u8>> {
    let mut command = xtask(&["image", "--profile=dev", "--name", NAME, "--output"]);
    let output = command.arg(path).env("SOURCE_DATE_EPOCH", DATE).output().context("running xtask")?;
    ensure!(output.status.success(), "{}", words(&output));
    fs::read(path).context("reading the archive")
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn entries(archive: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut entries = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        entries.insert(entry.path()?.to_string_lossy().into_owned(), content);
    }
    Ok(entries)
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Follows a descriptor.
fn blob<'a>(entries: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Result<&'a [u8]> {
    let named = descriptor["digest"].as_str().context("no digest")?;
    let path = format!("blobs/{}", named.replace(':', "/"));
    let content = entries.get(&path).with_context(|| format!("no {path}"))?;
    assert_eq!(digest(content), named);
    assert_eq!(descriptor["size"].as_u64(), u64::try_from(content.len()).ok());
    Ok(content)
}

#[test]
fn the_image_holds_an_agent_that_runs_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let archive = image(&folder.path().join("one.tar"))?;
    let again = image(&folder.path().join("two.tar"))?;
    assert!(archive == again, "the same source gave another image");

    // As containerd reads it.
    let entries = entries(&archive)?;
    let index: Value = serde_json::from_slice(&entries["index.json"])?;
    let descriptor = &index["manifests"][0];
    assert_eq!(descriptor["annotations"]["io.containerd.image.name"], NAME);
    let manifest: Value = serde_json::from_slice(blob(&entries, descriptor)?)?;
    let config: Value = serde_json::from_slice(blob(&entries, &manifest["config"])?)?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    assert_eq!(layers.len(), 1);
    let mut layer = Vec::new();
    GzDecoder::new(blob(&entries, &layers[0])?).read_to_end(&mut layer)?;
    assert_eq!(config["rootfs"]["diff_ids"][0].as_str(), Some(digest(&layer).as_str()));
    assert_eq!(config["architecture"], descriptor["platform"]["architecture"]);
    let labels = &config["config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(labels["org.opencontainers.image.created"], "2023-11-14T22:13:20Z");

    // As Docker and kind read it.
    let docker: Value = serde_json::from_slice(&entries["manifest.json"])?;
    assert_eq!(docker[0]["RepoTags"][0], NAME);
    let at = |path: &Value| entries.get(path.as_str()?).map(|content| digest(content));
    assert_eq!(at(&docker[0]["Config"]).as_deref(), manifest["config"]["digest"].as_str());
    assert_eq!(at(&docker[0]["Layers"][0]).as_deref(), layers[0]["digest"].as_str());

    // As a container runtime runs it: nothing of this machine is there.
    let root = folder.path().join("root");
    tar::Archive::new(layer.as_slice()).unpack(&root)?;
    let program = config["config"]["Entrypoint"][0].as_str().context("no entrypoint")?;
    let output = Command::new("chroot").arg(&root).args([program, "--version"]).output().context("running chroot")?;
    assert_eq!(words(&output), concat!("proxy-agent ", env!("CARGO_PKG_VERSION"), "\n"));

    let bill: Value = serde_json::from_slice(&fs::read(root.join("usr/share/doc/pointsman/sbom.cdx.json"))?)?;
    let components = bill["components"].as_array().context("no components")?;
    let is_there = |name: &str| components.iter().any(|component| component["name"] == name);
    assert!(is_there("aya") && is_there("aya-ebpf") && is_there("kube-client"), "what is compiled in");
    assert!(!is_there("proptest") && !is_there("aya-build"), "what tests and build scripts use");
    Ok(())
}

#[test]
fn a_name_that_is_none_is_refused() -> Result<()> {
    let output = xtask(&["image", "--name", "No Name"]).output()?;
    assert_eq!(output.status.code(), Some(2));
    assert!(words(&output).contains("'No Name' is no name of an image"), "{}", words(&output));
    Ok(())
}

#[test]
fn kind_says_what_is_missing_and_does_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = xtask(&["kind"]).env("PATH", folder.path()).output()?;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        words(&output),
        "error: this takes Docker and kind, and nothing was done: \
         there is no `docker` in PATH (https://docs.docker.com/engine/install/); \
         there is no `kind` in PATH (https://kind.sigs.k8s.io/docs/user/quick-start/); \
         there is no `kubectl` in PATH (https://kubernetes.io/docs/tasks/tools/)\n"
    );
    Ok(())
}
