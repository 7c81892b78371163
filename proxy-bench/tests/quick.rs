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
    for program in ["tc_in_eth", "tc_in_port", "tc_out_eth", "tc_in_l3", "tc_out_l3"] {
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
    names
}

#[test]
fn every_case_of_the_datapath_is_measured_once() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("figures.json");
    let output = Command::new(env!("CARGO_BIN_EXE_proxy-bench"))
        .args(["datapath", "--quick", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    for key in ["cpu", "cores", "kernel", "date"] {
        assert!(!report["machine"][key].is_null(), "the machine's {key} is missing");
    }
    let mut found = BTreeMap::new();
    for figure in report["results"].as_array().unwrap() {
        assert!(figure["value"].is_number(), "{figure}");
        *found.entry(name(figure)).or_insert(0) += 1;
    }
    let expected: BTreeMap<_, _> = all_cases().into_iter().map(|name| (name, 1)).collect();
    assert_eq!(found, expected);

    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("established-131k"), "{table}");
}
