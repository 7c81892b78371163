//! Client ports that are used again while the backend remembers what they were used for.

use proxy_testkit::Lab;
use proxy_testkit::lab::Family;

use crate::common::alone;
use crate::restart::two;
use crate::traffic::counter;

/// The port of every node that [`two`] has.
const NODE_PORT: u16 = 30086;
/// Connections in each family: each port is used several times.
const CONNECTIONS: usize = 4_000;

/// The backend closes first, and has each connection in TIME_WAIT for a minute; the client has forgotten it at once.
#[test]
fn a_client_uses_its_ports_again_and_no_masquerade_port_leads_to_an_old_connection() {
    let lab = alone(Lab::standard);
    let (client, pod) = (&lab.client, &lab.node2.a);
    let _published = lab.publish(&two([pod])).unwrap();
    client.ns.sysctl(&[("ipv4/ip_local_port_range", "20000 21999")]).unwrap();
    for family in Family::BOTH {
        let told = || [counter(client, "TCPSynRetrans"), counter(pod, "PAWSTimewait")];
        let before = told();
        let burst = client.burst(lab.node1.host.at(family, NODE_PORT), 2, CONNECTIONS).unwrap();
        assert_eq!((burst.total(), burst.failed.len()), (CONNECTIONS, 0), "{burst:?}");
        let [again, refused] = std::array::from_fn(|index| told()[index] - before[index]);
        println!(
            "{family:?}: {CONNECTIONS} masqueraded connections from 2000 client ports: {again} SYNs sent again, {refused} packets \
             taken for old ones"
        );
        assert_eq!((again, refused), (0, 0), "{family:?}");
    }
}
