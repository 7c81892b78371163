//! Reading files, and above all reading wrong ones.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::path::Path;

use super::parse::parse;
use super::*;

const SERVICE: &str = "\
objects:
  apiVersion: v1
  kind: Service
  metadata: {name: web}
  spec:
    clusterIPs: [10.96.0.1]
    ports: [{name: http, port: 80, targetPort: web}]
";

fn error_of(text: &str) -> String {
    match parse(Path::new("a.scenario"), text) {
        Err(error) => format!("{error:#}"),
        Ok(_) => panic!("nothing is wrong with:\n{text}"),
    }
}

fn line_of(text: &str) -> Line {
    line::parse(text).unwrap()
}

#[test]
fn a_file_is_read() {
    let text = format!(
        "# About nothing.\nfeature: F\n\n{SERVICE}\nscenario: one\noptions: --a --b=c\nendpoints: web\n  pod1a http:9000 # here\n\
         expect:\n  # now\n  pod1b -> web:80/TCP => pod1a as itself\nwait: 2 s\nscenario: two\npending: later\nexpect:\n  \
         client via node2 -> web:80/TCP+UDP => refused\n"
    );
    let file = parse(Path::new("a.scenario"), &text).unwrap();
    let [one, two] = file.scenarios.as_slice() else { panic!("{file:?}") };
    assert_eq!((one.feature.as_str(), one.name.as_str(), one.place.line), ("F", "one", 12));
    assert_eq!(one.options, ["--a", "--b=c"]);
    assert_eq!(one.steps.iter().map(|step| step.place.line).collect::<Vec<_>>(), [4, 14, 18, 19]);
    assert_eq!((two.pending.as_deref(), two.steps.len()), (Some("later"), 2));
}

#[test]
fn an_error_names_its_line() {
    let file = |rest: &str| format!("feature: F\n{SERVICE}scenario: one\n{rest}");
    for (text, expected) in [
        ("nonsense".to_owned(), "a.scenario:1: `nonsense` is not a keyword and a colon"),
        ("  pod1a".to_owned(), "a.scenario:1: an indented line belongs to a keyword above, and there is none"),
        ("scenario: one".to_owned(), "a.scenario:1: `feature:` comes before the first scenario"),
        (file(""), "a.scenario:9: the scenario expects nothing"),
        (file("endpoint: web\n"), "a.scenario:10: `endpoint:` is no keyword; there are feature"),
        (file("endpoints: web\n  pod3a\n"), "a.scenario:11: `pod3a` is no host; there are pod1a, "),
        (file("endpoints: web\n  pod1a\n  pod2a gone\n"), "a.scenario:12: `gone`: expected not-ready, "),
        (file("expect:\n\n  pod1b -> web:80 => refused\n"), "a.scenario:12: expected an address, a port and protocols"),
        (file("expect:\n  pod1b -> web:80/ICMP => refused\n"), "a.scenario:11: `ICMP` is no protocol"),
        (file("expect:\n  pod1b -> web:80/TCP => pod1a\n"), "a.scenario:11: `pod1a`: say which source"),
        (file("expect:\n  pod1b -> web:80/TCP => client as itself\n"), "a.scenario:11: client is no endpoint"),
        (file("expect:\n  pod1b via node1 -> web:80/TCP => refused\n"), "a.scenario:11: pod1b is in the cluster"),
        (file("expect:\n  pod1b -> web:80/TCP => refused (soon)\n"), "a.scenario:11: `(soon)` is neither"),
        (file("patch: Service web\n  spec: {a: 1\n"), "a.scenario:1"),
        (file("wait: 2\n"), "a.scenario:10: expected seconds, as in `wait: 2 s`"),
        (file("wait: 2 s\n  more\n"), "a.scenario:10: nothing may be indented under `wait:`"),
    ] {
        let error = error_of(&text);
        assert!(error.starts_with(expected), "of\n{text}\nexpected {expected}\nseen     {error}");
    }
}

#[test]
fn lines_say_what_they_mean() {
    let line =
        line_of("IPv6 client via node1 -> [fd00::1]:53/TCP+UDP => pod1a, pod1b as itself; pod2a as node1 or node2");
    assert_eq!((line.family, line.from.as_str(), line.via), (Some(Family::V6), "client", Some(1)));
    assert_eq!(line.to, Target::Address("fd00::1".parse().unwrap()));
    assert_eq!((line.port, line.protocols), (53, vec![Protocol::Tcp, Protocol::Udp]));
    let served = |by: &str, seen| Served { by: by.to_owned(), seen };
    let nodes = Source::Hosts(vec!["node1".to_owned(), "node2".to_owned()]);
    let expected = [served("pod1a", Source::Itself), served("pod1b", Source::Itself), served("pod2a", nodes)];
    assert_eq!(line.outcome, Outcome::Served(expected.into()));

    for (text, to) in [
        ("web", Target::ClusterIp(Key::service("default/web"))),
        ("space/web.lb", Target::LoadBalancer(Key::service("space/web"))),
        ("web.external", Target::ExternalIp(Key::service("web"))),
        ("node1", Target::Host("node1".to_owned())),
        ("node2.second", Target::Second("node2".to_owned())),
        ("localhost", Target::Localhost),
    ] {
        assert_eq!(line_of(&format!("node1 -> {text}:80/SCTP => dropped")).to, to, "{text}");
    }
    let line = line_of("pod1a -> web:80/UDP => another after every 2 s (host only: slow) (pending: never)");
    assert_eq!(line.outcome, Outcome::Another(2));
    assert_eq!((line.host_only.as_deref(), line.pending.as_deref()), (Some("slow"), Some("never")));
}

fn web(spec: &str) -> Objects {
    let text = format!("feature: F\n{}    {spec}\nscenario: s\nexpect:\n  pod1a -> web:80/TCP => refused\n", SERVICE);
    let file = parse(Path::new("a.scenario"), &text).unwrap();
    let mut objects = Objects::nodes();
    let [Step { action: Action::Objects(new), .. }, _] = file.scenarios[0].steps.as_slice() else { panic!("{file:?}") };
    objects.set(new[0].clone()).unwrap();
    objects
}

#[test]
fn slips_in_objects_are_found() {
    let mut objects = web("type: ClusterIP");
    let patch = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let mut error_of = |text: &str| format!("{:#}", objects.patch(&Key::service("web"), &patch(text)).unwrap_err());
    assert_eq!(error_of(r#"{"spec": {"tpye": "NodePort"}}"#), "Service default/web: there is no field spec.tpye");
    assert!(error_of(r#"{"spec": {"ports": 3}}"#).starts_with("Service default/web: "));
    assert_eq!(error_of(r#"{"metadata": {"name": "other"}}"#), "a patch does not rename");
    assert_eq!(
        format!("{:#}", objects.delete(&Key::service("other")).unwrap_err()),
        "there is no Service default/other"
    );
}

#[test]
fn endpoints_become_slices() {
    let mut objects = web("clusterIP: 10.96.0.1");
    let lines = EndpointLines::parse("web", &[(1, "  pod1a http:9000 zones=a"), (2, "  pod2a http:9001 terminating")]);
    lines.unwrap().apply(&mut objects).unwrap();
    let slices: Vec<&Value> =
        objects.iter().filter(|(key, _)| key.kind == "EndpointSlice").map(|(_, slice)| slice).collect();
    let [one, two] = slices.as_slice() else { panic!("{slices:?}") };
    assert_eq!(one["addressType"], "IPv4");
    assert_eq!(one["ports"][0]["port"], 9000);
    assert_eq!(one["endpoints"][0]["addresses"][0], "10.244.1.10");
    assert_eq!(one["endpoints"][0]["nodeName"], "node1");
    assert_eq!(one["endpoints"][0]["hints"]["forZones"][0]["name"], "a");
    assert_eq!(two["ports"][0]["port"], 9001);
    assert_eq!(two["endpoints"][0]["conditions"]["terminating"], true);
    // Other endpoints take their places.
    EndpointLines::parse("web", &[(1, "  pod1a http:9000")]).unwrap().apply(&mut objects).unwrap();
    assert_eq!(objects.iter().filter(|(key, _)| key.kind == "EndpointSlice").count(), 1);
    let error = EndpointLines::parse("web", &[(1, "  pod1a")]).unwrap().apply(&mut objects).unwrap_err();
    assert_eq!(format!("{error:#}"), "pod1a of Service default/web: what number is the port `http`? (`http:NUMBER`)");
}
