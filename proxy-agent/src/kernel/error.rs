//! What can go wrong with maps, programs and pins, in words for the operator.

use std::io;
use std::path::PathBuf;

/// An entry of a map that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The kernel refused.
    #[error("{action} {entry} in the map {map}")]
    Access {
        /// What was being done.
        action: &'static str,
        /// Name of the map.
        map: &'static str,
        /// Its key.
        entry: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no room.
    #[error("writing {entry}: the map {map} is full ({capacity} entries): start the agent with a larger map")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// Its key.
        entry: String,
        /// How many entries it has room for.
        capacity: u32,
    },
}

/// A set of pinned maps that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapSetError {
    /// A map has another shape than this agent would give it.
    #[error(
        "the map {map}, pinned at {}, has {what} {found}, but this agent needs {wanted}: something else made it, or a \
         version of the agent that does not fit",
        path.display()
    )]
    Mismatch {
        /// Name of the map.
        map: &'static str,
        /// Where it is pinned.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What it is.
        found: u32,
        /// What it has to be.
        wanted: u32,
    },
    /// There are none.
    #[error(
        "there are no maps at {}: has an agent been started on this node, and with this --pin-path?",
        path.display()
    )]
    Missing {
        /// Where the first missing one should be.
        path: PathBuf,
    },
    /// What is pinned cannot be opened.
    #[error("opening the map pinned at {}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map that fits cannot be pinned in a new set.
    #[error("pinning the map at {}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Entries cannot be copied to a larger map.
    #[error("copying the entries of the map {map} to the one pinned in {}", path.display())]
    Carry {
        /// Name of the map.
        map: &'static str,
        /// The set of the larger one.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The number of CPUs cannot be found out.
    #[error("reading {path} to count the CPUs")]
    Cpus {
        /// The file.
        path: &'static str,
        /// What went wrong.
        source: io::Error,
    },
}

/// The pin path cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It is not on a BPF filesystem.
    #[error(
        "the pin path {} is not on a BPF filesystem: mount one (`mount -t bpf bpf /sys/fs/bpf`), or choose a \
         --pin-path on one",
        path.display()
    )]
    NotBpf {
        /// The path.
        path: PathBuf,
    },
    /// Another agent has it.
    #[error(
        "another agent runs with the pin path {}: stop it first, or give this one a --pin-path of its own",
        path.display()
    )]
    Locked {
        /// The path.
        path: PathBuf,
    },
    /// The filesystem refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The programs cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The agent was built with AYA_BUILD_SKIP.
    #[error("this agent was built without its kernel programs (AYA_BUILD_SKIP was set): build it again without")]
    NoPrograms,
    /// aya or the kernel refused the object.
    #[error("loading the kernel programs")]
    Object(#[from] Box<aya::EbpfError>),
    /// The kernel refused a program.
    #[error("loading the kernel program {name}")]
    Program {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// The kernel does not describe its types.
    #[error("reading the description of the kernel's types (/sys/kernel/btf/vmlinux)")]
    Btf(#[source] Box<aya::BtfError>),
    /// The network namespace is not known.
    #[error("asking for the cookie of this network namespace")]
    Namespace(#[source] io::Error),
    /// The object has no such program.
    #[error("the kernel programs lack {name}: this is a fault of the build")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// The pinned maps cannot be used.
    #[error(transparent)]
    Maps(#[from] MapSetError),
    /// What the programs have to know cannot be written.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The pin path cannot be used.
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// A program that could not be attached to a device, or detached from it.
#[derive(Debug, thiserror::Error)]
#[error("{action} the {direction} program {preposition} device {ifindex}")]
pub struct AttachError {
    pub(super) action: &'static str,
    pub(super) preposition: &'static str,
    pub(super) direction: super::Direction,
    pub(super) ifindex: u32,
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}

/// An XDP program that could not be attached to a device.
#[derive(Debug, thiserror::Error)]
#[error("attaching the XDP program to device {ifindex}")]
pub struct XdpError {
    pub(super) ifindex: u32,
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}
