//! The Services that the packet table speaks of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::maps::{
    Affinity, AffinityKey, Backend, Frontend, FrontendKey, FrontendKind, Masquerade, RangeKey, SCTP, ServiceNet, TCP,
    UDP,
};

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
    /// Source ranges.
    pub ranges: Vec<RangeKey<A>>,
    /// Ranges that ClusterIPs are from.
    pub service_nets: Vec<ServiceNet<A>>,
    /// What is remembered of clients.
    pub affinities: Vec<(AffinityKey<A>, Affinity)>,
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
    /// ClusterIP of `remote`'s Service: port 80 to 8080, TCP, UDP and SCTP.
    pub to_remote: IpAddr,
    /// ClusterIP of `neighbour`'s Service: port 80 to 8080, TCP, UDP and SCTP.
    pub to_neighbour: IpAddr,
    /// ClusterIP of `pod`'s own Service: port 80 to 8080, TCP, UDP and SCTP.
    pub to_self: IpAddr,
    /// ClusterIP of a second Service of `remote`: port 80 to 8080, TCP. Both addresses have one sum, so that no checksum
    /// changes by the one in place of the other.
    pub also_to_remote: IpAddr,
    /// ClusterIP of a Service without endpoints: port 80, TCP, UDP and SCTP.
    pub to_nobody: IpAddr,
    /// Load-balancer address of `remote`'s Service with externalTrafficPolicy Local: port 80 to 8080.
    pub local_only: IpAddr,
    /// Load-balancer address of `neighbour`'s Service, for the network of `outside` alone: port 80 to 8080.
    pub guarded: IpAddr,
    /// Load-balancer address of a Service with session affinity and externalTrafficPolicy Local, port 80: both lists
    /// have `neighbour` alone, but what is remembered of clients is another backend, see `sticky`.
    pub sticky: IpAddr,
    /// ClusterIP of a Service that is left to others.
    pub of_others: IpAddr,
    /// An address of the ClusterIPs' network that no Service has.
    pub unallocated: IpAddr,
    /// Another client outside.
    pub stranger: IpAddr,
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
            also_to_remote: at(10, 96, 2, 155),
            to_nobody: at(10, 96, 0, 5),
            local_only: at(203, 0, 113, 1),
            guarded: at(203, 0, 113, 2),
            sticky: at(203, 0, 113, 3),
            of_others: at(10, 96, 0, 6),
            unallocated: at(10, 96, 0, 7),
            stranger: at(198, 51, 100, 10),
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
            also_to_remote: at(0x1096, 0x13b3),
            to_nobody: at(0x1096, 5),
            local_only: at(0x2031, 1),
            guarded: at(0x2031, 2),
            sticky: at(0x2031, 3),
            of_others: at(0x1096, 6),
            unallocated: at(0x1096, 7),
            stranger: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 10)),
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

/// A Service of the world.
struct Service {
    vip: IpAddr,
    kind: FrontendKind,
    /// The pod that serves it, and whether that is on this node.
    endpoint: Option<(IpAddr, bool)>,
    node_port: Option<u16>,
    is_external_local: bool,
    /// The clients that may come: those whose addresses begin as this one does, by half (/16, /64).
    source: Option<IpAddr>,
}

impl Service {
    const fn cluster_ip(vip: IpAddr, endpoint: Option<(IpAddr, bool)>) -> Self {
        Self { vip, kind: FrontendKind::ClusterIp, endpoint, node_port: None, is_external_local: false, source: None }
    }

    const fn load_balancer(vip: IpAddr, endpoint: (IpAddr, bool)) -> Self {
        Self { kind: FrontendKind::LoadBalancer, ..Self::cluster_ip(vip, Some(endpoint)) }
    }
}

fn services(places: &Places) -> [Service; 7] {
    [
        Service {
            node_port: Some(REMOTE_NODE_PORT),
            ..Service::cluster_ip(places.to_remote, Some((places.remote, false)))
        },
        Service {
            node_port: Some(LOCAL_NODE_PORT),
            ..Service::cluster_ip(places.to_neighbour, Some((places.neighbour, true)))
        },
        Service::cluster_ip(places.to_self, Some((places.pod, true))),
        Service::cluster_ip(places.also_to_remote, Some((places.remote, false))),
        Service::cluster_ip(places.to_nobody, None),
        Service { is_external_local: true, ..Service::load_balancer(places.local_only, (places.remote, false)) },
        Service { source: Some(places.outside), ..Service::load_balancer(places.guarded, (places.neighbour, true)) },
    ]
}

fn tables<A: Address>(places: &Places, address: impl Fn(IpAddr) -> A) -> Tables<A> {
    let mut tables = Tables {
        frontends: Vec::new(),
        slots: Vec::new(),
        backends: vec![Backend::default()],
        ranges: Vec::new(),
        service_nets: service_nets(&address, places),
        affinities: Vec::new(),
    };
    // Pods are in the network of `pod`, by half (/16, /64).
    let half = RangeKey::<A>::OWNER_BITS + u32::try_from(A::LEN * 4).unwrap_or(0);
    tables.ranges.push(RangeKey { prefix: half, owner: RangeKey::<A>::PODS, addr: address(places.pod) });
    tables.ranges.push(RangeKey::exact(RangeKey::<A>::NODE, address(places.node)));
    let known = [places.to_remote, places.to_neighbour, places.to_self, places.also_to_remote, places.to_nobody];
    for vip in known {
        tables.ranges.push(RangeKey::exact(RangeKey::<A>::CLUSTER_IPS, address(vip)));
    }
    tables.ranges.push(RangeKey::exact(RangeKey::<A>::LEFT_TO_OTHERS, address(places.of_others)));
    for external in [places.local_only, places.guarded] {
        tables.ranges.push(RangeKey::exact(RangeKey::<A>::EXTERNAL_IPS, address(external)));
    }
    let mut id = 0;
    for service in services(places) {
        for proto in [TCP, UDP, SCTP] {
            id += 1;
            let first = u32::try_from(tables.slots.len()).unwrap_or(0);
            if let Some((pod, is_local)) = service.endpoint {
                tables.slots.push(u32::try_from(tables.backends.len()).unwrap_or(0));
                let local = if is_local { Backend::<A>::LOCAL } else { 0 };
                tables.backends.push(Backend {
                    addr: address(pod),
                    port: 8080_u16.to_be_bytes(),
                    flags: Backend::<A>::LIVE | local,
                    generation: 1,
                    service: id,
                    ..Backend::default()
                });
            }
            if let Some(source) = service.source {
                tables.ranges.push(RangeKey { prefix: half, owner: id, addr: address(source) });
            }
            let count = u32::from(service.endpoint.is_some());
            let is_local_here = service.endpoint.is_some_and(|(_, is_local)| is_local);
            let frontend = |kind: FrontendKind| Frontend {
                service: id,
                first,
                count,
                outside_first: first,
                outside_count: if service.is_external_local && !is_local_here { 0 } else { count },
                kind: kind as u8,
                flags: if service.source.is_some() { Frontend::RANGES } else { 0 }
                    | if service.is_external_local { Frontend::DROP | Frontend::OUTSIDE_LOCAL } else { 0 },
                masquerade: match kind {
                    FrontendKind::ClusterIp => Masquerade::OUTSIDE,
                    _ if service.is_external_local => Masquerade::NODE,
                    _ => Masquerade::ALL | Masquerade::KEEP_OUTSIDE,
                },
                ..Frontend::default()
            };
            let key = |at: SocketAddr| FrontendKey::new(address(at.ip()), at.port().to_be_bytes(), proto);
            tables.frontends.push((key(SocketAddr::new(service.vip, 80)), frontend(service.kind)));
            if let Some(port) = service.node_port {
                tables.frontends.push((key(SocketAddr::new(places.node, port)), frontend(FrontendKind::NodePort)));
            }
        }
    }
    for proto in [TCP, UDP, SCTP] {
        id += 1;
        sticky(&mut tables, places, &address, id, proto);
    }
    tables
}

/// ClusterIPs are in the network of `to_remote`, by half (/16, /64). What comes before it is for the comparison alone, and
/// what comes after it is known in part: the network of `sticky`.
fn service_nets<A: Address>(address: impl Fn(IpAddr) -> A, places: &Places) -> Vec<ServiceNet<A>> {
    let mut mask = A::default();
    let bytes = bytemuck::bytes_of_mut(&mut mask);
    let half = bytes.len() / 2;
    bytes.iter_mut().take(half).for_each(|byte| *byte = 0xff);
    let net = |of, flags| ServiceNet {
        addr: address(of),
        mask,
        flags: ServiceNet::<A>::USED | flags,
        ..ServiceNet::default()
    };
    let complete = ServiceNet::<A>::COMPLETE;
    vec![net(places.router, complete), net(places.to_remote, complete), net(places.sticky, 0)]
}

/// The Service with affinity. Two more backends are in no slot: `remote`'s of the Cluster policy, to which only affinity
/// leads, and one in neither list, as if it had just become unready.
fn sticky<A: Address>(tables: &mut Tables<A>, places: &Places, address: impl Fn(IpAddr) -> A, service: u32, proto: u8) {
    let first = u32::try_from(tables.slots.len()).unwrap_or(0);
    let next = u32::try_from(tables.backends.len()).unwrap_or(0);
    let [listed, remote, unlisted] = [next, next + 1, next + 2];
    tables.slots.push(listed);
    let backend = |pod, port: u16, flags| Backend {
        addr: address(pod),
        port: port.to_be_bytes(),
        flags: Backend::<A>::LIVE | flags,
        generation: 1,
        service,
        ..Backend::default()
    };
    let both = Backend::<A>::CLUSTER | Backend::<A>::POLICY_LOCAL;
    tables.backends.push(backend(places.neighbour, 8080, Backend::<A>::LOCAL | both));
    tables.backends.push(backend(places.remote, 8080, Backend::<A>::CLUSTER));
    tables.backends.push(backend(places.remote, 8081, 0));
    let frontend = Frontend {
        service,
        first,
        count: 1,
        outside_first: first,
        outside_count: 1,
        affinity: 100,
        kind: FrontendKind::LoadBalancer as u8,
        flags: Frontend::DROP | Frontend::OUTSIDE_LOCAL,
        masquerade: Masquerade::NODE,
        zero: 0,
    };
    tables.frontends.push((FrontendKey::new(address(places.sticky), 80_u16.to_be_bytes(), proto), frontend));
    // Seen a moment ago, whatever the executor's clock says; or at boot.
    let (lately, long_ago) = (u32::MAX, 0);
    for (client, backend, generation, seen) in [
        (places.pod, remote, 1, lately),
        (places.router, remote, 1, long_ago),
        (places.outside, remote, 0, lately),
        (places.remote, unlisted, 1, lately),
        (places.stranger, remote, 1, lately),
    ] {
        let key = AffinityKey::new(address(client), service);
        tables.affinities.push((key, Affinity { backend, generation, seen }));
    }
}
