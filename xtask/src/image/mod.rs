//! `cargo xtask image`: the agent as a container image, in an archive that container runtimes import.
//!
//! No container engine takes part: the agent is linked statically, put into a layer of its own, and written with what
//! describes it into one tar file ([`archive`]). The same commit gives the same bytes on the same machine.
//!
//! Absent on purpose: pushing to a registry, which `ctr`, `docker`, `skopeo` and `crane` do well, and images for
//! other architectures than this machine's.

mod agent;
mod archive;
mod reference;
mod sbom;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::setup::{self, Needs};
use crate::workspace;
pub use reference::Reference;

/// Make the container image: an archive for `ctr images import`, `docker load` and `kind load image-archive`
#[derive(clap::Args)]
pub struct Args {
    /// Name of the image
    #[arg(long, value_name = "NAME[:TAG]", default_value_t)]
    name: Reference,
    /// Where to write the archive [default: in target/archives/]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Cargo's profile for the agent: `dev` builds sooner, and a larger image
    #[arg(long, value_name = "PROFILE", default_value = "image")]
    profile: String,
}

/// An archive that was written.
pub struct Written {
    pub path: PathBuf,
    pub name: Reference,
}

/// The verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    let output = args.output.as_deref().map(std::path::absolute).transpose().context("finding the output's folder")?;
    let written = make(&args.name, output, &args.profile)?;
    let path = written.path.display();
    println!("\nTo bring it to a node:");
    println!("  ctr -n k8s.io images import {path}");
    println!("  kind load image-archive {path}");
    println!("  docker load -i {path}");
    Ok(ExitCode::SUCCESS)
}

/// Builds the agent and writes the archive.
pub fn make(name: &Reference, output: Option<PathBuf>, profile: &str) -> Result<Written> {
    setup::ensure(Needs::Build)?;
    let platform = agent::Platform::of_host()?;
    let source = source::Source::look()?;
    println!("Building the agent for {} (profile {profile})", platform.target);
    let binary = agent::build(&platform, profile)?;
    let agent = fs::read(&binary).with_context(|| format!("could not read {}", binary.display()))?;
    let root = workspace::root();
    let sbom = sbom::of_agent(platform.target, &source.created)?;
    let licence = |name: &str| fs::read(root.join(name)).with_context(|| format!("could not read {name}"));
    let image = archive::Image {
        name: name.clone(),
        architecture: platform.architecture,
        labels: labels(&source),
        created: source.created.clone(),
        files: vec![
            archive::File::program("bin/proxy-agent", agent),
            archive::File::text("usr/share/doc/pointsman/LICENSE-APACHE", licence("LICENSE-APACHE")?),
            archive::File::text("usr/share/doc/pointsman/LICENSE-GPL-2.0", licence("LICENSE-GPL-2.0")?),
            archive::File::text("usr/share/doc/pointsman/sbom.cdx.json", sbom.clone()),
        ],
    };
    let path = output.unwrap_or_else(|| {
        let file = format!("pointsman-{}-{}.tar", source::VERSION, platform.architecture);
        root.join("target/archives").join(file)
    });
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    let digest = write(&image, &path)?;
    let bill = path.with_extension("cdx.json");
    fs::write(&bill, sbom).with_context(|| format!("could not write {}", bill.display()))?;
    let size = fs::metadata(&path).with_context(|| format!("could not look at {}", path.display()))?.len();
    println!("{name}, {}, {}", platform.architecture, source.words());
    println!("  {} ({:.1} MB)", path.display(), megabytes(size));
    println!("  {digest}");
    Ok(Written { path, name: name.clone() })
}

/// Writes beside the place and renames: whoever looks finds the old archive or the new one.
fn write(image: &archive::Image, path: &Path) -> Result<String> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".part");
    let draft = PathBuf::from(draft);
    let written = fs::File::create(&draft).map_err(Into::into).and_then(|file| archive::write(image, file));
    let written = written.and_then(|digest| {
        fs::rename(&draft, path)?;
        Ok(digest)
    });
    if written.is_err() {
        // Not there if it could not be made.
        let _ = fs::remove_file(&draft);
    }
    written.with_context(|| format!("could not write {}", path.display()))
}

fn labels(source: &source::Source) -> BTreeMap<&'static str, String> {
    let mut labels = BTreeMap::from([
        ("org.opencontainers.image.title", "pointsman".to_owned()),
        ("org.opencontainers.image.description", "Kubernetes Service load balancer in eBPF".to_owned()),
        ("org.opencontainers.image.licenses", "Apache-2.0".to_owned()),
        ("org.opencontainers.image.version", source::VERSION.to_owned()),
        ("org.opencontainers.image.created", source.created.clone()),
    ]);
    if let Some(revision) = &source.revision {
        labels.insert("org.opencontainers.image.revision", revision.clone());
    }
    labels
}

fn megabytes(bytes: u64) -> f64 {
    u32::try_from(bytes / 1000).map_or(f64::INFINITY, |kilobytes| f64::from(kilobytes) / 1000.0)
}
