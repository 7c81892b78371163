//! A quick run of the bench: every case is there once, whatever its figure. Needs root.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Suite, case, subject, family, protocol and unit of a figure.
fn name(figure: &Value) -> String {
    let part = |key: &str| figure[key].as_str().unwrap_or("-").to_owned();
    ["suite", "case", "subject", "family", "protocol", "unit"].map(part).join(" ")
}

fn all_cases() -> Vec<String> {
    let mut names = Vec::new();
    for program in ["tc_in_eth", "tc_in_port", "tc_out_eth", "tc_in_l3", "tc_out_l3", "tc_in_up", "xdp_up"] {
        names.push(format!("datapath verified {program} - - instructions"));
        names.push(format!("datapath jitted {program} - - bytes"));
    }
    for floor in ["empty", "restore", "array-hot", "hash-hot", "lru-hot", "lru-cold-131k", "lru-insert"] {
        names.push(format!("datapath {floor} floor - - ns"));
    }
    for case in ["established-1", "established-1k", "established-131k", "not-a-frontend", "new-flow"] {
        for subject in ["tc-ingress", "tc-egress"] {
            for flow in ["ipv4 tcp", "ipv4 udp", "ipv6 tcp", "ipv6 udp"] {
                names.push(format!("datapath {case} {subject} {flow} ns"));
            }
        }
    }
    for case in ["established-1", "established-1k", "established-131k", "new-flow"] {
        for flow in ["ipv4 tcp", "ipv4 udp", "ipv6 tcp", "ipv6 udp"] {
            names.extend(["xdp-up", "xdp-out"].map(|subject| format!("datapath {case} {subject} {flow} ns")));
        }
    }
    for flow in ["ipv4 tcp", "ipv4 udp", "ipv6 tcp", "ipv6 udp"] {
        names.push(format!("datapath not-a-frontend xdp-up {flow} ns"));
    }
    names
}

/// Runs a suite quickly. Its report, and what it printed.
fn run(suite: &str) -> (Value, String) {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("figures.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_proxy-bench"));
    command.args([suite, "--quick", "--json"]).arg(&json);
    if suite != "datapath" {
        command.arg("--plots").arg(folder.path().join("plots"));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    for key in ["cpu", "cores", "kernel", "date"] {
        assert!(!report["machine"][key].is_null(), "the machine's {key} is missing");
    }
    if suite != "datapath" {
        let drawings = std::fs::read_dir(folder.path().join("plots")).unwrap();
        assert!(drawings.count() > 3, "drawings of {suite}");
    }
    (report, String::from_utf8(output.stdout).unwrap())
}

/// How often each name is there.
fn names(report: &Value) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for figure in report["results"].as_array().unwrap() {
        assert!(figure["value"].is_number(), "{figure}");
        *found.entry(name(figure)).or_insert(0) += 1;
    }
    found
}

fn once(names: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    names.into_iter().map(|name| (name, 1)).collect()
}

#[test]
fn every_case_of_the_datapath_is_measured_once() {
    let (report, table) = run("datapath");
    assert_eq!(names(&report), once(all_cases()));
    assert!(table.contains("established-131k"), "{table}");
}

#[test]
fn every_case_of_live_traffic_is_measured_once() {
    let (report, _) = run("live");
    let mut expected = Vec::new();
    for subject in ["direct", "tc", "tc-sends-on", "xdp"] {
        for way in ["clusterip-same-node", "clusterip-other-node", "nodeport-local", "nodeport-remote"] {
            for (rate, protocol, unit) in [
                ("throughput", "tcp", "Gbit/s"),
                ("latency-p50", "tcp", "us"),
                ("latency-p99", "tcp", "us"),
                ("connections", "tcp", "connections/s"),
                ("datagrams", "udp", "packets/s"),
            ] {
                expected.push(format!("live {rate}/{way}/10 {subject} ipv4 {protocol} {unit}"));
            }
            if way == "clusterip-same-node" {
                continue;
            }
            for case in ["cpu-established", "cpu-new-flow"] {
                expected.push(format!("live {case}/{way}/10 {subject} ipv4 udp ns of CPU"));
            }
        }
    }
    for from in ["uplink", "pod"] {
        expected.push(format!("live cpu-generator/{from}/10 direct ipv4 udp ns of CPU, taken off"));
    }
    assert_eq!(names(&report), once(expected));
}

#[test]
fn every_case_of_the_control_plane_is_measured_once_and_a_restart_writes_nothing() {
    let (report, _) = run("scale");
    let expected = [
        ("cold-start", "s"),
        ("cold-start-cpu", "s of CPU"),
        ("resident", "MiB"),
        ("resident-peak", "MiB"),
        ("kernel-maps", "MiB"),
        ("change-to-traffic-p50", "ms"),
        ("change-to-traffic-p99", "ms"),
        ("event-to-kernel-p50", "ms"),
        ("event-to-kernel-p99", "ms"),
        ("storm-rate", "changes/s"),
        ("storm-cpu", "CPUs"),
        ("storm-cpu-per-change", "ms of CPU"),
        ("storm-behind", "s"),
        ("storm-resident", "MiB"),
        ("storm-event-to-kernel-p50", "ms"),
        ("storm-event-to-kernel-p99", "ms"),
        ("restart", "s"),
        ("restart-cpu", "s of CPU"),
        ("restart-unchanged", "s"),
        ("restart-unchanged-writes", "map entries"),
    ];
    let expected = expected.map(|(case, unit)| format!("scale {case}/40x2 tc ipv4 - {unit}"));
    assert_eq!(names(&report), once(expected));
    let figures = report["results"].as_array().unwrap();
    let writes = figures.iter().find(|figure| figure["case"] == "restart-unchanged-writes/40x2").unwrap();
    assert_eq!(writes["value"], 0.0, "a restart with all in the kernel writes nothing");
}
