//! The archive of an image: a tar file that is an OCI image layout and, beside it, what `docker save` writes.
//!
//! | file | who reads it |
//! |---|---|
//! | `oci-layout`, `index.json` | containerd (`ctr images import`), podman, skopeo: OCI image-spec, `image-layout.md` |
//! | `manifest.json` | Docker, and `kind load image-archive`, which looks there for the names |
//! | `blobs/sha256/*` | all: manifest, configuration and the one layer |
//!
//! Invariant: the same image gives the same bytes. No time but the given one, no user, no order of the file system.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Reference;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What an archive is written of.
pub struct Image {
    pub name: Reference,
    /// As Go calls it: `amd64`, `arm64`.
    pub architecture: &'static str,
    pub labels: BTreeMap<&'static str, String>,
    /// As RFC 3339 has it.
    pub created: String,
    /// The first is what runs.
    pub files: Vec<File>,
}

/// A file in the image, owned by root.
pub struct File {
    path: &'static str,
    mode: u32,
    content: Vec<u8>,
}

impl File {
    /// Something to run. The path is relative to the root.
    pub fn program(path: &'static str, content: Vec<u8>) -> Self {
        Self { path, mode: 0o755, content }
    }

    /// Something to read.
    pub fn text(path: &'static str, content: Vec<u8>) -> Self {
        Self { path, mode: 0o644, content }
    }
}

/// Bytes that are known by their digest.
struct Blob {
    kind: &'static str,
    digest: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(kind: &'static str, content: Vec<u8>) -> Self {
        Self { kind, digest: digest(&content), content }
    }

    fn json(kind: &'static str, value: &Value) -> Self {
        Self::new(kind, value.to_string().into_bytes())
    }

    /// Where it is in the archive.
    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    /// How other blobs point to it (image-spec, `descriptor.md`).
    fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.kind,
            "digest": format!("sha256:{}", self.digest),
            "size": self.content.len(),
        })
    }
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the archive. Answers the digest of its manifest.
pub fn write(image: &Image, to: impl Write) -> Result<String> {
    let files = layer(&image.files).context("making the layer")?;
    // Of the layer as it is unpacked (image-spec, `config.md`).
    let diff_id = format!("sha256:{}", digest(&files));
    let layer = Blob::new(LAYER, compress(&files).context("compressing the layer")?);
    let config = Blob::json(CONFIG, &configuration(image, &diff_id));
    let manifest = Blob::json(
        MANIFEST,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
            "annotations": image.labels,
        }),
    );
    let mut entry = manifest.descriptor();
    entry["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
    entry["annotations"] = json!({
        // The first is containerd's, and in full; the second is the specification's, and by habit the tag.
        "io.containerd.image.name": image.name.in_full(),
        "org.opencontainers.image.ref.name": image.name.tag(),
    });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    let docker = json!([{
        "Config": config.path(),
        "RepoTags": [image.name.to_string()],
        "Layers": [layer.path()],
    }]);

    let mut tar = tar::Builder::new(to);
    add(&mut tar, "oci-layout", 0o644, json!({ "imageLayoutVersion": "1.0.0" }).to_string().as_bytes())?;
    add(&mut tar, "index.json", 0o644, index.to_string().as_bytes())?;
    add(&mut tar, "manifest.json", 0o644, docker.to_string().as_bytes())?;
    for folder in ["blobs/", "blobs/sha256/"] {
        add_folder(&mut tar, folder)?;
    }
    for blob in [&manifest, &config, &layer] {
        add(&mut tar, &blob.path(), 0o644, &blob.content)?;
    }
    tar.into_inner()?.flush()?;
    Ok(format!("sha256:{}", manifest.digest))
}

fn configuration(image: &Image, diff_id: &str) -> Value {
    let program = image.files.first().map(|file| format!("/{}", file.path));
    json!({
        "created": image.created,
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "Entrypoint": [program],
            // For `kubectl exec POD -- proxy-agent frontends`.
            "Env": ["PATH=/bin"],
            "WorkingDir": "/",
            "Labels": image.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": image.created, "created_by": "cargo xtask image" }],
    })
}

/// The files as a tar file, each after its folders.
fn layer(files: &[File]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folders = BTreeSet::new();
    for File { path, mode, content } in files {
        for (end, _) in path.match_indices('/') {
            let folder = &path[..=end];
            if folders.insert(folder) {
                add_folder(&mut tar, folder)?;
            }
        }
        add(&mut tar, path, *mode, content)?;
    }
    tar.into_inner()
}

fn compress(content: &[u8]) -> io::Result<Vec<u8>> {
    // Without a time and a name in the header.
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(content)?;
    gzip.finish()
}

fn add(tar: &mut tar::Builder<impl Write>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let size = u64::try_from(content.len()).map_err(io::Error::other)?;
    tar.append_data(&mut header(tar::EntryType::Regular, mode, size), path, content)
}

fn add_folder(tar: &mut tar::Builder<impl Write>, path: &str) -> io::Result<()> {
    tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), path, io::empty())
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
