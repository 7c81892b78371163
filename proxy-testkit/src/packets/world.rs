//! The Services that the packet table speaks of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::maps::{Backend, Frontend, FrontendKey, FrontendKind, TCP, UDP};

/// The node's own address in each family, and what flows are masqueraded to.
pub const NODE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(172, 18, 0, 2), Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 2));

/// Entries of the maps, for both families.
pub struct World {
    /// IPv4.
    pub v4: Tables<Ipv4>,
    /// IPv6.
    pub v6: Tables<Ipv6>,
}

/// Entries of one family's maps.
pub struct Tables<A: Address> {
    /// Frontends.
    pub frontends: Vec<(FrontendKey<A>, Frontend)>,
    /// Slots by their index.
    pub slots: Vec<u32>,
    /// Backends by their id; id 0 is not used.
    pub backends: Vec<Backend<A>>,
}

/// The addresses of one family that the table uses, as the world has them.
#[derive(Clone, Copy)]
pub struct Places {
    /// A pod of this node.
    pub pod: IpAddr,
    /// Another pod of this node.
    pub neighbour: IpAddr,
    /// A pod of another node.
    pub remote: IpAddr,
    /// A client outside.
    pub outside: IpAddr,
    /// A router on the way.
    pub router: IpAddr,
    /// This node.
    pub node: IpAddr,
    /// ClusterIP of `remote`'s Service: port 80 to 8080, TCP and UDP.
    pub to_remote: IpAddr,
    /// ClusterIP of `neighbour`'s Service: port 80 to 8080, TCP and UDP.
    pub to_neighbour: IpAddr,
    /// ClusterIP of `pod`'s own Service: port 80 to 8080, TCP and UDP.
    pub to_self: IpAddr,
    /// ClusterIP of a second Service of `remote`: port 80 to 8080, TCP.
    pub also_to_remote: IpAddr,
    /// ClusterIP of a Service without endpoints: port 80, TCP and UDP.
    pub to_nobody: IpAddr,
}

/// NodePort of `remote`'s Service.
pub const REMOTE_NODE_PORT: u16 = 30_001;
/// NodePort of `neighbour`'s Service.
pub const LOCAL_NODE_PORT: u16 = 30_002;

impl Places {
    /// The places of IPv4.
    pub const fn v4() -> Self {
        const fn at(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        Self {
            pod: at(10, 244, 1, 5),
            neighbour: at(10, 244, 1, 6),
            remote: at(10, 244, 2, 7),
            outside: at(198, 51, 100, 9),
            router: at(192, 0, 2, 1),
            node: IpAddr::V4(NODE.0),
            to_remote: at(10, 96, 0, 1),
            to_neighbour: at(10, 96, 0, 2),
            to_self: at(10, 96, 0, 3),
            also_to_remote: at(10, 96, 0, 4),
            to_nobody: at(10, 96, 0, 5),
        }
    }

    /// The places of IPv6.
    pub const fn v6() -> Self {
        const fn at(net: u16, host: u16) -> IpAddr {
            IpAddr::V6(Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0xbeef, host))
        }
        Self {
            pod: at(0x2441, 5),
            neighbour: at(0x2441, 6),
            remote: at(0x2442, 7),
            outside: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 9)),
            router: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1)),
            node: IpAddr::V6(NODE.1),
            to_remote: at(0x1096, 1),
            to_neighbour: at(0x1096, 2),
            to_self: at(0x1096, 3),
            also_to_remote: at(0x1096, 4),
            to_nobody: at(0x1096, 5),
        }
    }
}

impl World {
    /// The Services that the packet table speaks of.
    pub fn new() -> Self {
        Self {
            v4: tables(&Places::v4(), |address| match address {
                IpAddr::V4(address) => Ipv4::new(address.octets()),
                IpAddr::V6(_) => Ipv4::default(),
            }),
            v6: tables(&Places::v6(), |address| match address {
                IpAddr::V4(_) => Ipv6::default(),
                IpAddr::V6(address) => Ipv6::new(address.octets()),
            }),
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn tables<A: Address>(places: &Places, address: impl Fn(IpAddr) -> A) -> Tables<A> {
    let mut tables = Tables { frontends: Vec::new(), slots: Vec::new(), backends: vec![Backend::default()] };
    let services = [
        (places.to_remote, Some((places.remote, false)), Some(REMOTE_NODE_PORT)),
        (places.to_neighbour, Some((places.neighbour, true)), Some(LOCAL_NODE_PORT)),
        (places.to_self, Some((places.pod, true)), None),
        (places.also_to_remote, Some((places.remote, false)), None),
        (places.to_nobody, None, None),
    ];
    let mut service = 0;
    for (vip, endpoint, node_port) in services {
        for proto in [TCP, UDP] {
            service += 1;
            let first = u32::try_from(tables.slots.len()).unwrap_or(0);
            if let Some((pod, is_local)) = endpoint {
                tables.slots.push(u32::try_from(tables.backends.len()).unwrap_or(0));
                let local = if is_local { Backend::<A>::LOCAL } else { 0 };
                tables.backends.push(Backend {
                    addr: address(pod),
                    port: 8080_u16.to_be_bytes(),
                    flags: Backend::<A>::LIVE | local,
                    generation: 1,
                    service,
                    ..Backend::default()
                });
            }
            let frontend = |kind: FrontendKind| Frontend {
                service,
                first,
                count: u32::from(endpoint.is_some()),
                kind: kind as u8,
                zero: [0; 3],
            };
            let key = |at: SocketAddr| FrontendKey::new(address(at.ip()), at.port().to_be_bytes(), proto);
            tables.frontends.push((key(SocketAddr::new(vip, 80)), frontend(FrontendKind::ClusterIp)));
            if let Some(port) = node_port {
                tables.frontends.push((key(SocketAddr::new(places.node, port)), frontend(FrontendKind::NodePort)));
            }
        }
    }
    tables
}
