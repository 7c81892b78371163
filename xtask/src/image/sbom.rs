//! The bill of materials: the crates that are compiled into the agent and its kernel programs, as CycloneDX 1.5.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId, TargetKind};
use serde_json::{Value, json};

use super::source;
use crate::workspace;

/// The crates that the rest is there for. Each is a member of the workspace.
const ROOTS: [&str; 2] = ["proxy-agent", "proxy-ebpf"];

/// The bill, for a target.
pub fn of_agent(target: &str, created: &str) -> Result<Vec<u8>> {
    let mut command = MetadataCommand::new();
    command.current_dir(workspace::root());
    command.other_options(["--locked".to_owned(), "--filter-platform".to_owned(), target.to_owned()]);
    let metadata = command.exec().context("could not ask cargo for the dependencies")?;
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "component": { "type": "application", "name": "pointsman", "version": source::VERSION },
        },
        "components": compiled_in(&metadata)?.into_iter().map(component).collect::<Vec<_>>(),
    });
    Ok(bill.to_string().into_bytes())
}

/// The packages that end up in the program: not those that only tests, build scripts and macros use.
fn compiled_in(metadata: &Metadata) -> Result<Vec<&Package>> {
    let resolve = metadata.resolve.as_ref().context("cargo tells no dependencies")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let packages: BTreeMap<&PackageId, _> = metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let is_macro =
        |package: &&Package| package.targets.iter().any(|target| target.kind.contains(&TargetKind::ProcMacro));

    let roots = metadata.workspace_packages().into_iter().filter(|package| ROOTS.contains(&package.name.as_str()));
    let mut ahead: Vec<&PackageId> = roots.map(|package| &package.id).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(id) = ahead.pop() {
        let Some(package) = packages.get(id).filter(|package| !is_macro(package)) else { continue };
        if !seen.insert(id) {
            continue;
        }
        found.push(*package);
        let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        let compiled = dependencies
            .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        ahead.extend(compiled.map(|dependency| &dependency.pkg));
    }
    found.sort_by_key(|package| (package.name.to_string(), package.version.clone()));
    Ok(found)
}

fn component(package: &Package) -> Value {
    let mut component = json!({
        "type": "library",
        "name": package.name,
        "version": package.version,
        "purl": format!("pkg:cargo/{}@{}", package.name, package.version),
    });
    if let Some(licence) = &package.license {
        // The old way to write a choice.
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    component
}
