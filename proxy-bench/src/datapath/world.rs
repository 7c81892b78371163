//! The Services, clients and backends of the bench.
//!
//! 1,024 Service ports with one backend each, on another node, and clients that are pods of this one. With one backend
//! a reply's addresses follow from its flow's number; choosing among many is the same work.

use proxy_bench_ebpf::Numbered;
use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::datapath::Family;
use proxy_common::maps::{Backend, Frontend, FrontendKey, FrontendKind};

/// How many Service ports there are: a power of two.
pub const SERVICES: u32 = 1_024;

/// Who talks, or is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Pods of this node.
    Clients,
    /// ClusterIPs.
    Frontends,
    /// Pods that serve.
    Backends,
    /// Pods of this node that talk to no Service.
    Bystanders,
    /// Whom they talk to.
    Strangers,
    /// What flows that leave the node are masqueraded to.
    Node,
}

impl Party {
    /// The port that they are talked to at.
    pub const fn port(self) -> [u8; 2] {
        match self {
            Self::Backends => 8080_u16.to_be_bytes(),
            Self::Frontends => 80_u16.to_be_bytes(),
            // Beyond the range of masquerade ports as well.
            Self::Clients | Self::Bystanders | Self::Strangers | Self::Node => 443_u16.to_be_bytes(),
        }
    }

    const fn net(self) -> u8 {
        match self {
            Self::Clients => 128,
            Self::Bystanders => 136,
            Self::Frontends => 96,
            Self::Backends => 244,
            Self::Strangers => 200,
            Self::Node => 18,
        }
    }
}

/// An address family, as the bench needs it.
pub trait Side: Numbered + Family {
    /// Its name in the figures.
    const NAME: &'static str;
    /// What the names of its maps and programs end with.
    const SUFFIX: &'static str;
    /// The program that restores requests.
    const REQUEST: &'static str;
    /// The program that restores replies.
    const REPLY: &'static str;
    /// The program that restores requests at XDP.
    const XDP_REQUEST: &'static str;

    /// The first address of a party; IPv4 takes the first 4 bytes.
    fn base(party: Party) -> [u8; 16];
}

impl Side for Ipv4 {
    const NAME: &'static str = "ipv4";
    const SUFFIX: &'static str = "v4";
    const REQUEST: &'static str = "request_v4";
    const REPLY: &'static str = "reply_v4";
    const XDP_REQUEST: &'static str = "xdp_request_v4";

    fn base(party: Party) -> [u8; 16] {
        [10, party.net(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }
}

impl Side for Ipv6 {
    const NAME: &'static str = "ipv6";
    const SUFFIX: &'static str = "v6";
    const REQUEST: &'static str = "request_v6";
    const REPLY: &'static str = "reply_v6";
    const XDP_REQUEST: &'static str = "xdp_request_v6";

    fn base(party: Party) -> [u8; 16] {
        [0xfd, 0, 0, 0x10, 0, party.net(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }
}

/// One Service port, as the maps hold it. Its number is its slot's as well, its id one more.
pub struct Service<A: Address> {
    /// Key of the frontend.
    pub key: FrontendKey<A>,
    /// The frontend.
    pub frontend: Frontend,
    /// Its only backend, whose id is the Service port's.
    pub backend: Backend<A>,
}

/// The Service port of a number, and which of its clients are masqueraded.
pub fn service<A: Side>(number: u32, proto: u8, masquerade: u8) -> Service<A> {
    let address = |party| A::from_bytes(&A::base(party)).plus(number);
    let id = number + 1;
    Service {
        key: FrontendKey::new(address(Party::Frontends), Party::Frontends.port(), proto),
        frontend: Frontend {
            service: id,
            first: number,
            count: 1,
            outside_first: number,
            outside_count: 1,
            masquerade,
            kind: FrontendKind::ClusterIp as u8,
            ..Frontend::default()
        },
        backend: Backend {
            addr: address(Party::Backends),
            port: Party::Backends.port(),
            flags: Backend::<A>::LIVE,
            generation: 1,
            service: id,
            ..Backend::default()
        },
    }
}
