//! The agent's own numbers.

use std::io::{Read, Write};

use proxy_testkit::client;
use proxy_testkit::lab::Host;

/// Asks the servers of the agent on a node. Gives head and body.
pub fn get(node: &Host, port: u16, path: &str) -> (String, String) {
    let answer = node.inside(|| {
        let mut stream = client::connect(([127, 0, 0, 1], port).into())?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let answer = answer.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// What programs dropped, and what happened in the tables of flows to make room: what is not 0.
pub fn incidents(node: &Host) -> Vec<String> {
    let (_, body) = get(node, 10249, "/metrics");
    let prefixes = ["pointsman_dropped_packets_total", "pointsman_flow_table_events_total"];
    let is_one = |line: &&str| prefixes.iter().any(|prefix| line.starts_with(prefix)) && !line.ends_with(" 0");
    body.lines().filter(is_one).map(str::to_owned).collect()
}

/// How many entries a map has room for.
pub fn capacity(node: &Host, map: &str) -> f64 {
    value(node, &format!("pointsman_map_capacity{{map=\"{map}\"}}"))
}

/// The value of a metric, by its name and its labels as they are written.
pub fn value(node: &Host, series: &str) -> f64 {
    let (_, body) = get(node, 10249, "/metrics");
    let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{body}")).parse().unwrap()
}
