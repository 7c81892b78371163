//! Loading the kernel programs, with the pinned maps.

use std::path::Path;

use aya::Btf;
use aya::programs::{CgroupSockAddr, Iter, Program, ProgramError, ProgramFd, SchedClassifier, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::cgroup::SocketLb;
use super::error::{LoadError, PinError};
use super::maps::MapSet;
use super::pins::PinPath;
use super::sets::Set;
use super::spec::Sizes;
use super::{Direction, sys};
use crate::devices::Layer;

/// The object file with the programs, as the build made it. Empty where it was told to skip it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/proxy-ebpf"));

/// Names of all programs.
pub const PROGRAMS: [&str; 5] = ["tc_in_eth", "tc_in_port", "tc_out_eth", "tc_in_l3", "tc_out_l3"];

/// The programs of an uplink that sends packets on: tc's, in the place of `tc_in_eth`, and XDP's.
pub const UPLINK_PROGRAMS: [&str; 2] = [UPLINK_INGRESS, XDP_PROGRAM];
const UPLINK_INGRESS: &str = "tc_in_up";
const XDP_PROGRAM: &str = "xdp_up";

/// A program that translates at sockets.
#[derive(Clone, Copy, Debug)]
pub struct SocketProgram {
    /// Its name.
    pub name: &'static str,
    /// Where it is attached: its number in `enum bpf_attach_type`.
    pub attach_type: u32,
}

/// All of them, those first that later ones count on: what is sent can be received.
pub const SOCKET_PROGRAMS: [SocketProgram; 8] = [
    SocketProgram { name: "sock_recv4", attach_type: 19 },
    SocketProgram { name: "sock_recv6", attach_type: 20 },
    SocketProgram { name: "sock_peer4", attach_type: 29 },
    SocketProgram { name: "sock_peer6", attach_type: 30 },
    SocketProgram { name: "sock_send4", attach_type: 14 },
    SocketProgram { name: "sock_send6", attach_type: 15 },
    SocketProgram { name: "sock_connect4", attach_type: 10 },
    SocketProgram { name: "sock_connect6", attach_type: 11 },
];

/// Names of the programs that list what is stored with sockets: those led to IPv4 backends, and to IPv6 ones.
pub const PEER_LISTS: [&str; 2] = ["list_peers4", "list_peers6"];

/// The first kernel with `bpf_set_retval`.
const SET_RETVAL: KernelVersion = KernelVersion::new(5, 18, 0);
/// The first kernel whose `bpf_l4_csum_replace` knows `BPF_F_IPV6`.
const CSUM_IPV6: KernelVersion = KernelVersion::new(6, 16, 0);

/// What the programs say about packets. What is not said costs nothing: the verifier removes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PacketLog {
    /// Nothing.
    Off = 0,
    /// What they decide.
    Debug = 4,
    /// Everything.
    Trace = 5,
}

/// The programs in the kernel.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    set: Set,
}

impl Programs {
    /// Loads the programs with the maps pinned at a path, which have at least these sizes from then on; those not
    /// there yet are made and pinned, those that do not fit replaced. Programs that are attached go on with what they
    /// have until they are replaced, too.
    ///
    /// # Errors
    /// When the kernel refuses a pin, a map or a program. What is attached goes on as before.
    pub fn load(pins: &PinPath, sizes: &Sizes, log: PacketLog, sockets: SocketLb) -> Result<Self, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NoPrograms);
        }
        let mut set = Set::choose(pins, sizes)?;
        let level = log as u8;
        let has = |since| u8::from(KernelVersion::current().is_ok_and(|now| now >= since));
        let (csum_ipv6, set_retval) = (has(CSUM_IPV6), has(SET_RETVAL));
        let host_netns = sys::netns_cookie().map_err(LoadError::Namespace)?.unwrap_or_default();
        let sockets_of_all = u8::from(sockets == SocketLb::All);
        let mut loader = EbpfLoader::new();
        loader.override_global("AYA_LOG_LEVEL", &level, false);
        loader.override_global("CSUM_IPV6", &csum_ipv6, false);
        loader.override_global("SET_RETVAL", &set_retval, false);
        loader.override_global("HOST_NETNS", &host_netns, false);
        loader.override_global("SOCKETS_OF_ALL", &sockets_of_all, false);
        for (shape, size) in set.maps() {
            loader.map_max_entries(shape.name, size);
            loader.map_pin_path(shape.name, set.folder().join(shape.name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(Box::new)?;
        MapSet::open(set.folder())?.prepare_flows(set.flows_from())?;
        if !set.carry_flows()? {
            return Self::load(pins, &sizes.keeping_flows(), log, sockets);
        }
        for name in PROGRAMS {
            let program = ebpf.program_mut(name).ok_or(LoadError::Missing { name })?;
            classifier(program)
                .and_then(SchedClassifier::load)
                .map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
        }
        set.take_over(pins)?;
        Ok(Self { ebpf, set })
    }

    /// Where their maps are pinned.
    pub fn maps(&self) -> &Path {
        self.set.folder()
    }

    /// Whether the flows of programs that are attached were carried over to tables of another size.
    pub fn have_carried_flows(&self) -> bool {
        self.set.flows_from().is_some()
    }

    /// Whether they are to be loaded once more with tables of flows of another size, when those before are replaced.
    pub fn put_off_flows(&self) -> bool {
        self.set.puts_off_flows()
    }

    /// Whether these programs take the place of others whose maps of Services they could not take over: theirs have to be
    /// filled first.
    pub fn need_filling(&self) -> bool {
        self.set.needs_filling()
    }

    /// Says that their maps have been filled, and are those to go on with if the agent ends now.
    ///
    /// # Errors
    /// When the filesystem refuses.
    pub fn are_filled(&mut self, pins: &PinPath) -> Result<(), PinError> {
        self.set.make_current(pins)
    }

    /// Loads the programs that translate at sockets. The others work without them.
    ///
    /// # Errors
    /// When the kernel refuses one, as old ones may.
    pub fn load_socket_hooks(&mut self) -> Result<(), LoadError> {
        for SocketProgram { name, .. } in SOCKET_PROGRAMS {
            let program = self.ebpf.program_mut(name).ok_or(LoadError::Missing { name })?;
            <&mut CgroupSockAddr>::try_from(program)
                .and_then(CgroupSockAddr::load)
                .map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
        }
        Ok(())
    }

    /// Loads tc's program for uplinks that send packets on. The others work without it.
    ///
    /// # Errors
    /// When the kernel refuses it, as old ones may.
    pub fn load_uplink(&mut self) -> Result<(), LoadError> {
        let name = UPLINK_INGRESS;
        let program = self.ebpf.program_mut(name).ok_or(LoadError::Missing { name })?;
        classifier(program)
            .and_then(SchedClassifier::load)
            .map_err(|source| LoadError::Program { name, source: Box::new(source) })
    }

    /// Loads the XDP program. The others work without it.
    ///
    /// # Errors
    /// When the kernel refuses it, as old ones may.
    pub fn load_xdp(&mut self) -> Result<(), LoadError> {
        let name = XDP_PROGRAM;
        let program = self.ebpf.program_mut(name).ok_or(LoadError::Missing { name })?;
        <&mut Xdp>::try_from(program)
            .and_then(Xdp::load)
            .map_err(|source| LoadError::Program { name, source: Box::new(source) })
    }

    /// The program of the XDP hook.
    ///
    /// # Errors
    /// When the object has none.
    pub fn xdp(&self) -> Result<&Xdp, ProgramError> {
        self.ebpf.program(XDP_PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()
    }

    /// Loads the programs that list what is stored with sockets.
    ///
    /// # Errors
    /// When the kernel refuses one: it has no description of its types (`CONFIG_DEBUG_INFO_BTF`), or is older than 5.12.
    pub fn load_peer_lists(&mut self) -> Result<(), LoadError> {
        let btf = Btf::from_sys_fs().map_err(|error| LoadError::Btf(Box::new(error)))?;
        for name in PEER_LISTS {
            let program = self.ebpf.program_mut(name).ok_or(LoadError::Missing { name })?;
            <&mut Iter>::try_from(program)
                .and_then(|program| program.load("bpf_sk_storage_map", &btf))
                .map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
        }
        Ok(())
    }

    /// The descriptor of such a program. `None` where the kernel has none.
    pub(super) fn peer_list(&self, name: &str) -> Option<&ProgramFd> {
        <&Iter>::try_from(self.ebpf.program(name)?).and_then(Iter::fd).ok()
    }

    /// The descriptor of a socket hook.
    pub(super) fn socket_hook(&self, name: &str) -> Result<&ProgramFd, ProgramError> {
        let program = self.ebpf.program(name).ok_or(ProgramError::NotLoaded)?;
        <&CgroupSockAddr>::try_from(program)?.fd()
    }

    /// Name and number of verified instructions of each program, where the kernel tells (5.16 and later).
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn verified_instructions(&self) -> Result<Vec<(&'static str, Option<u32>)>, LoadError> {
        let sockets = SOCKET_PROGRAMS.into_iter().map(|program| program.name);
        PROGRAMS
            .into_iter()
            .chain(UPLINK_PROGRAMS)
            .chain(sockets)
            .chain(PEER_LISTS)
            .map(|name| {
                let program = self.ebpf.program(name).ok_or(LoadError::Missing { name })?;
                let info = program.info().map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
                Ok((name, info.verified_instruction_count()))
            })
            .collect()
    }

    /// The program for a kind of device and a direction.
    ///
    /// # Errors
    /// When the object has no such program.
    pub fn classifier(&mut self, layer: Layer, direction: Direction) -> Result<&mut SchedClassifier, ProgramError> {
        let name = match (layer, direction) {
            (Layer::Ethernet, Direction::In) => "tc_in_eth",
            (Layer::BridgePort, Direction::In) => "tc_in_port",
            (Layer::Uplink, Direction::In) => UPLINK_INGRESS,
            (Layer::Ethernet | Layer::BridgePort | Layer::Uplink, Direction::Out) => "tc_out_eth",
            (Layer::Ip, Direction::In) => "tc_in_l3",
            (Layer::Ip, Direction::Out) => "tc_out_l3",
        };
        self.ebpf.program_mut(name).ok_or(ProgramError::NotLoaded).and_then(classifier)
    }

    /// The descriptor of a program.
    pub(super) fn fd(&mut self, layer: Layer, direction: Direction) -> Result<&ProgramFd, ProgramError> {
        self.classifier(layer, direction)?.fd()
    }

    /// Hands what the programs say about packets to `tracing`, for as long as the runtime lives.
    ///
    /// # Errors
    /// When the ring buffer cannot be read.
    pub fn forward_log(&mut self) -> Result<(), LogError> {
        let logger = aya_log::EbpfLogger::init(&mut self.ebpf).map_err(Box::new)?;
        // SAFETY: the logger keeps its ring buffer, and so its descriptor, for as long as it lives.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let mut logger = logger.map_err(std::io::Error::from)?;
        tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        });
        Ok(())
    }
}

fn classifier(program: &mut Program) -> Result<&mut SchedClassifier, ProgramError> {
    program.try_into()
}

/// The programs' messages cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The ring buffer is missing or odd.
    #[error("reading what the kernel programs log")]
    Buffer(#[from] Box<aya_log::Error>),
    /// It cannot be waited for.
    #[error("waiting for what the kernel programs log")]
    Wait(#[from] std::io::Error),
}
