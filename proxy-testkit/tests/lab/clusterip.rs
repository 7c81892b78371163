//! From a pod, through a ClusterIP, to a pod.

use proxy_testkit::lab::{Family, Host, Protocol};

use crate::common::{STREAM, WEB, standard, tally, usual, who};

#[test]
fn a_pod_reaches_one_pod_wherever_it_is_and_is_seen_as_itself() {
    let lab = standard();
    let invalid = lab.invalid_packets().unwrap();
    let (one, two) = (&lab.node1, &lab.node2);
    let ways: [(&str, &Host, &Host); 4] = [
        ("over the same bridge", &one.a, &one.b),
        ("to a routed pod of another node", &one.a, &two.a),
        ("from a routed pod to one of the same node", &two.a, &two.b),
        ("from a routed pod to another node's bridge", &two.a, &one.b),
    ];
    for (way, from, to) in ways {
        let web = usual("one-way", 10, [to]);
        let published = lab.publish(&web).unwrap();
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                let answers = from.ask_many(protocol, web.at(family, who(protocol)), 5);
                let answers = answers.unwrap_or_else(|error| panic!("{way}, {family:?}, {protocol:?}: {error}"));
                for answer in answers {
                    assert_eq!((&answer.pod, answer.seen), (&to.name, from.ip(family)), "{way}, {protocol:?}");
                }
            }
            assert_eq!(from.get(web.at(family, WEB)).unwrap().pod, to.name, "{way}, HTTP");
            from.stream(web.at(family, STREAM), 4 << 20).unwrap_or_else(|error| panic!("{way}, {family:?}: {error}"));
        }
        lab.withdraw(published).unwrap();
    }
    assert_eq!(lab.invalid_packets().unwrap(), invalid, "conntrack called packets invalid");
}

#[test]
fn a_pod_reaches_itself_and_is_seen_as_its_node() {
    let lab = standard();
    let invalid = lab.invalid_packets().unwrap();
    for node in lab.nodes() {
        let pod = &node.a;
        let own = usual("own", 11, [pod]);
        let published = lab.publish(&own).unwrap();
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                let answer = pod.ask(protocol, own.at(family, who(protocol)));
                let answer = answer.unwrap_or_else(|error| panic!("{}, {family:?}, {protocol:?}: {error}", pod.name));
                assert_eq!(answer.pod, pod.name);
                assert!(node.owns(answer.seen), "{}, {family:?}, {protocol:?}: seen {}", pod.name, answer.seen);
            }
            pod.stream(own.at(family, STREAM), 4 << 20).unwrap();
        }
        lab.withdraw(published).unwrap();
    }
    assert_eq!(lab.invalid_packets().unwrap(), invalid, "conntrack called packets invalid");
}

#[test]
fn every_backend_gets_its_share() {
    // A backend of three is missed by chance in 60 tries once in 10^10 runs; one that gets under 5 of 60 tries, once in
    // 10^5. Each client's tries are judged together over families and protocols: 240, where under 40 come once in 10^8.
    let lab = standard();
    let backends = [&lab.node1.a, &lab.node1.b, &lab.node2.a];
    let spread = usual("spread", 12, backends);
    let _published = lab.publish(&spread).unwrap();
    for from in [&lab.node1.c, &lab.node2.c] {
        let mut pods = Vec::new();
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                let answers = from.ask_many(protocol, spread.at(family, who(protocol)), 60).unwrap();
                let reached = tally(answers.iter().map(|answer| answer.pod.as_str()));
                assert_eq!(reached.len(), backends.len(), "{family:?} {protocol:?}: {reached:?}");
                pods.extend(answers.into_iter().map(|answer| answer.pod));
            }
        }
        let shares = tally(pods.iter().map(String::as_str));
        println!("{}: {shares:?}", from.name);
        assert!(shares.values().all(|&count| count >= 40), "{shares:?}");
    }
}
