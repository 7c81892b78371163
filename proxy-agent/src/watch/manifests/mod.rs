//! The embedded source: a folder of manifests.
