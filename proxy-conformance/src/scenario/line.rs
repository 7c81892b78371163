//! The lines below `expect:`.
//!
//! ```text
//! [IPv4|IPv6] FROM [via NODE] -> TO:PORT/PROTOCOL[+PROTOCOL] => OUTCOME [(pending: WHY)] [(host only: WHY)]
//! ```

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use proxy_testkit::lab::Family;

use super::{Key, Line, Outcome, Protocol, Served, Source, Target};
use crate::places;

/// Reads one line.
pub(super) fn parse(text: &str) -> Result<Line> {
    let (mut rest, mut pending, mut host_only) = (text, None, None);
    while let Some((before, note)) = rest.strip_suffix(')').and_then(|rest| rest.rsplit_once('(')) {
        match note.split_once(": ") {
            Some(("pending", why)) if !why.trim().is_empty() => pending = Some(why.trim().to_owned()),
            Some(("host only", why)) if !why.trim().is_empty() => host_only = Some(why.trim().to_owned()),
            _ => bail!("`({note})` is neither `(pending: WHY)` nor `(host only: WHY)`"),
        }
        rest = before.trim_end();
    }
    let form = "expected `FROM -> TO:PORT/PROTOCOL => OUTCOME`";
    let (question, outcome) = rest.split_once("=>").context(form)?;
    let (from, to) = question.split_once("->").context(form)?;
    let (family, from) = family(from.trim());
    let (from, via) = client(from)?;
    let (to, port, protocols) = target(to.trim())?;
    if let Target::Address(address) = &to
        && family.is_some_and(|family| family != Family::of(*address))
    {
        bail!("{address} is not of that family");
    }
    let outcome = self::outcome(outcome.trim())?;
    Ok(Line { text: text.to_owned(), family, from, via, to, port, protocols, outcome, pending, host_only })
}

fn family(text: &str) -> (Option<Family>, &str) {
    for (name, family) in [("IPv4 ", Family::V4), ("IPv6 ", Family::V6)] {
        if let Some(rest) = text.strip_prefix(name) {
            return (Some(family), rest.trim_start());
        }
    }
    (None, text)
}

fn client(text: &str) -> Result<(String, Option<u8>)> {
    let (name, via) = match text.split_once(" via ") {
        Some((name, "node1")) => (name.trim(), Some(1)),
        Some((name, "node2")) => (name.trim(), Some(2)),
        Some((_, other)) => bail!("`via {other}`: expected `via node1` or `via node2`"),
        None => (text, None),
    };
    let host = places::host(name)?;
    ensure!(via.is_none() || host.is_outside(), "{name} is in the cluster: it sends by its own node");
    Ok((name.to_owned(), via))
}

fn target(text: &str) -> Result<(Target, u16, Vec<Protocol>)> {
    let form = "expected an address, a port and protocols, as in `web:80/TCP` or `[fd00::1]:53/TCP+UDP`";
    let (address, rest) = text.rsplit_once(':').context(form)?;
    let (port, protocols) = rest.split_once('/').context(form)?;
    let port = port.parse().with_context(|| format!("`{port}` is no port"))?;
    let protocols = protocols
        .split('+')
        .map(|name| Protocol::of(name).with_context(|| format!("`{name}` is no protocol: expected TCP, UDP or SCTP")));
    Ok((address_of(address)?, port, protocols.collect::<Result<_>>()?))
}

fn address_of(text: &str) -> Result<Target> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(Target::Address(address));
    }
    if text == "localhost" {
        return Ok(Target::Localhost);
    }
    if let Some(node) = text.strip_suffix(".second") {
        ensure!(places::host(node)?.is_node(), "{node} has no second address");
        return Ok(Target::Second(node.to_owned()));
    }
    if places::host(text).is_ok() {
        return Ok(Target::Host(text.to_owned()));
    }
    Ok(match text.rsplit_once('.') {
        None => Target::ClusterIp(Key::service(text)),
        Some((service, "external")) => Target::ExternalIp(Key::service(service)),
        Some((service, "lb")) => Target::LoadBalancer(Key::service(service)),
        Some((_, other)) => bail!("`.{other}`: expected SERVICE, SERVICE.external, SERVICE.lb or NODE.second"),
    })
}

fn outcome(text: &str) -> Result<Outcome> {
    if let Some(rest) = text.strip_prefix("one of ") {
        let served = served(rest)?;
        ensure!(served.len() > 1, "`one of` one is that one");
        return Ok(Outcome::OneOf(served));
    }
    if let Some(rest) = text.strip_prefix("the same") {
        return Ok(Outcome::TheSame(source(rest)?));
    }
    if let Some(rest) = text.strip_prefix("another after every ") {
        let seconds = rest.strip_suffix(" s").and_then(|seconds| seconds.parse().ok());
        return Ok(Outcome::Another(seconds.context("expected seconds, as in `another after every 2 s`")?));
    }
    Ok(match text {
        "refused" => Outcome::Refused,
        "dropped" => Outcome::Dropped,
        "untouched" => Outcome::Untouched,
        _ => Outcome::Served(served(text)?),
    })
}

/// `pod1a, pod1b as itself; pod2a as node1`
fn served(text: &str) -> Result<Vec<Served>> {
    let mut all: Vec<Served> = Vec::new();
    for group in text.split(';') {
        let group = group.trim();
        let (names, seen) = group.find(" as ").map_or((group, ""), |at| group.split_at(at));
        let seen = source(seen).with_context(|| format!("`{group}`"))?;
        for name in names.split(',') {
            let by = name.trim();
            let host = places::host(by).with_context(
                || "expected endpoints, as in `pod1a, pod1b as itself; pod2a as node1`, or refused, dropped, untouched",
            )?;
            ensure!(!host.is_outside(), "{by} is no endpoint");
            ensure!(all.iter().all(|known| known.by != by), "{by} is there twice");
            all.push(Served { by: by.to_owned(), seen: seen.clone() });
        }
    }
    Ok(all)
}

/// ` as itself`, ` as node1 or node2`, ` as any`
fn source(text: &str) -> Result<Source> {
    let text = text.strip_prefix(" as ").context("say which source the endpoint sees: `as itself`, `as node1`, …")?;
    Ok(match text.trim() {
        "itself" => Source::Itself,
        "any" => Source::Any,
        hosts => {
            let names: Vec<String> = hosts.split(" or ").map(|name| name.trim().to_owned()).collect();
            for name in &names {
                places::host(name)?;
            }
            Source::Hosts(names)
        }
    })
}
