//! Kernels before 6.6 have no TCX: the programs then hang on clsact.

use proxy_testkit::Lab;
use proxy_testkit::agent::AgentOptions;
use proxy_testkit::lab::{Family, Options, Protocol};
use proxy_testkit::shell;

use crate::common::{STREAM, alone, usual, who};

#[test]
fn clsact_serves_as_tcx_does_and_leaves_nothing() {
    let agents = AgentOptions { arguments: vec!["--attach".into(), "clsact".into()], ..AgentOptions::default() };
    let mut lab = alone(|| Lab::new(Options { agents: Some(agents), ..Options::default() }));
    let service = usual("old", 80, [&lab.node2.a]).node_port(30084);
    let _published = lab.publish(&service).unwrap();
    for family in Family::BOTH {
        for protocol in Protocol::BOTH {
            assert_eq!(lab.node1.a.ask(protocol, service.at(family, who(protocol))).unwrap().pod, "pod2a");
            assert_eq!(lab.node2.a.ask(protocol, service.at(family, who(protocol))).unwrap().pod, "pod2a");
        }
        lab.node1.a.stream(service.at(family, STREAM), 4 << 20).unwrap();
        lab.client.stream(lab.node1.host.at(family, 30084), 4 << 20).unwrap();
    }
    let filters = |lab: &Lab, hook: &str| {
        shell::run(lab.node1.host.ns.command("tc").args(["filter", "show", "dev", "veth10", hook])).unwrap()
    };
    assert!(filters(&lab, "ingress").contains("bpf") && filters(&lab, "egress").contains("bpf"));
    for agent in lab.agents_mut() {
        agent.stop().unwrap();
        agent.clean_up().unwrap();
    }
    assert_eq!((filters(&lab, "ingress"), filters(&lab, "egress")), (String::new(), String::new()));
}
