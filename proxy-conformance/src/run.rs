//! Runs a scenario: asks, and compares what came of it with what must.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use proxy_testkit::lab::Family;
use serde_json::Value;

use crate::places::{self, Host};
use crate::report::{Event, Ledger};
use crate::scenario::{Action, Key, Line, Objects, Outcome, Protocol, Scenario, Served, Source, Step, Target};

/// How often a client asks that is to be refused or left without an answer.
const ASK_IN_VAIN: usize = 3;
/// How often a client asks for another endpoint than before, each time after a pause.
const ASK_FOR_ANOTHER: usize = 20;

/// Somebody asks an address.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who.
    pub from: Host,
    /// The node that a client outside sends to what is for no node: 1 or 2.
    pub via: Option<u8>,
    /// Which address.
    pub to: SocketAddr,
    /// By which protocol.
    pub protocol: Protocol,
}

/// What came of asking once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// An endpoint answered.
    Served {
        /// The name of its host.
        by: String,
        /// The source address that it saw.
        seen: IpAddr,
    },
    /// The client was told that nobody serves.
    Refused,
    /// Nothing came back.
    Silent,
    /// The proxy left the packet as it was; in words, what became of it.
    Untouched(String),
    /// Something that must never come of it, in words.
    Odd(String),
}

/// Something that scenarios can be put to.
pub trait Executor {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Makes these the objects that there are, and returns when they are taken up.
    fn apply(&mut self, objects: &Objects) -> Result<()>;

    /// Lets seconds pass.
    fn wait(&mut self, seconds: u32) -> Result<()>;

    /// Asks some times, one after the other, from a new port each time.
    fn ask(&mut self, question: &Question, count: usize) -> Result<Vec<Fate>>;

    /// Asks each question once, where no answer is expected: at the same time, if that saves time.
    fn knock(&mut self, questions: &[Question]) -> Result<Vec<Fate>>;

    /// Why it cannot ask by a protocol, if so.
    fn lacks(&self, protocol: Protocol) -> Option<String>;

    /// What else there is to say about a failure.
    fn trace(&self) -> String {
        String::new()
    }

    /// Whether "dropped" and "untouched" are two things to it.
    fn tells_drops(&self) -> bool;
}

/// What came of a scenario.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is wrong, with its place.
    pub failures: Vec<String>,
    /// Lines that were not run, or failed as they were said to, with the reason.
    pub pending: Vec<String>,
}

/// Runs a scenario. What it came to in each line goes to the ledger.
pub fn run(scenario: &Scenario, executor: &mut dyn Executor, ledger: &mut Ledger) -> Verdict {
    let mut runner = Runner {
        scenario,
        executor,
        ledger,
        objects: Objects::nodes(),
        applied: None,
        last: BTreeMap::new(),
        verdict: Verdict::default(),
    };
    let mut steps = scenario.steps.as_slice();
    while let Some((step, rest)) = steps.split_first() {
        if let Action::Expect(_) = step.action {
            let end = steps.iter().position(|step| !matches!(step.action, Action::Expect(_))).unwrap_or(steps.len());
            let (lines, rest) = steps.split_at(end);
            if let Err(error) = runner.expect(lines) {
                runner.verdict.failures.push(format!("{}: {error:#}", step.place));
                break;
            }
            steps = rest;
            continue;
        }
        if let Err(error) = runner.act(step) {
            runner.verdict.failures.push(format!("{}: {error:#}", step.place));
            break;
        }
        steps = rest;
    }
    runner.verdict
}

/// Who was served: the client, the node that it came to, the family, the protocol, and the Service's port.
type Session = (&'static str, Option<u8>, bool, Protocol, String);

struct Runner<'a> {
    scenario: &'a Scenario,
    executor: &'a mut dyn Executor,
    ledger: &'a mut Ledger,
    objects: Objects,
    /// The objects that the executor has.
    applied: Option<Objects>,
    /// Who served each client last.
    last: BTreeMap<Session, String>,
    verdict: Verdict,
}

/// A line in one family, at one address, by one protocol.
struct Case<'a> {
    step: &'a Step,
    line: &'a Line,
    family: Family,
    question: Question,
}

impl Runner<'_> {
    fn act(&mut self, step: &Step) -> Result<()> {
        match &step.action {
            Action::Objects(objects) => objects.iter().try_for_each(|object| self.objects.set(object.clone())),
            Action::Endpoints(lines) => lines.apply(&mut self.objects),
            Action::Patch(key, patch) => self.objects.patch(key, patch),
            Action::Delete(key) => self.objects.delete(key),
            Action::Wait(seconds) => {
                self.bring_up_to_date()?;
                self.executor.wait(*seconds)
            }
            Action::Expect(_) => Ok(()),
        }
    }

    /// Gives the executor the objects, once after all changes.
    fn bring_up_to_date(&mut self) -> Result<()> {
        if self.applied.as_ref() != Some(&self.objects) {
            self.executor.apply(&self.objects)?;
            self.applied = Some(self.objects.clone());
        }
        Ok(())
    }

    /// Lines that stand together. Those that expect silence come last and at once.
    fn expect(&mut self, steps: &[Step]) -> Result<()> {
        self.bring_up_to_date()?;
        let mut silent = Vec::new();
        for step in steps {
            let Action::Expect(line) = &step.action else { continue };
            let cases = match self.cases(step, line) {
                Ok(cases) => cases,
                Err(error) => {
                    self.fail(step, line, "", &format!("{error:#}"));
                    continue;
                }
            };
            for case in cases {
                match line.outcome {
                    Outcome::Dropped | Outcome::Untouched => silent.push(case),
                    _ => self.case(&case),
                }
            }
        }
        self.silent(&silent);
        Ok(())
    }

    fn cases<'a>(&self, step: &'a Step, line: &'a Line) -> Result<Vec<Case<'a>>> {
        let from = places::host(&line.from)?;
        let mut cases = Vec::new();
        for family in Family::BOTH.into_iter().filter(|family| line.family.is_none_or(|only| only == *family)) {
            for address in addresses(&self.objects, &line.to, family)? {
                let is_known = places::hosts().any(|host| host.has(address));
                if from.is_outside() && line.via.is_none() && !is_known {
                    bail!("by which node does {} send? (`{} via node1`)", from.name, from.name);
                }
                for protocol in &line.protocols {
                    let to = SocketAddr::new(address, line.port);
                    let question = Question { from: from.clone(), via: line.via, to, protocol: *protocol };
                    cases.push(Case { step, line, family, question });
                }
            }
        }
        if cases.is_empty() {
            bail!("there is no such address in a family that is asked for");
        }
        Ok(cases)
    }

    /// Why a case is not to be run here.
    fn excuse(&self, case: &Case<'_>) -> Option<String> {
        let is_host = self.executor.name() == "host";
        let host_only = case.line.host_only.as_ref().or(self.scenario.host_only.as_ref());
        if !is_host && let Some(reason) = host_only {
            return Some(format!("on the packet core alone: {reason}"));
        }
        self.executor.lacks(case.question.protocol)
    }

    fn case(&mut self, case: &Case<'_>) {
        if self.is_excused(case) {
            return;
        }
        let outcome = self.try_case(case);
        self.conclude(case, outcome);
    }

    fn is_excused(&mut self, case: &Case<'_>) -> bool {
        if self.executor.name() != "host" && case.line.pending.is_some() {
            self.ledger.add(self.scenario, case.line, case.family, Event::Pending);
            return true;
        }
        let excuse = self.excuse(case);
        let is_excused = excuse.is_some();
        excuse.into_iter().for_each(|reason| self.ledger.skip(reason));
        is_excused
    }

    fn silent(&mut self, cases: &[Case<'_>]) {
        let mut wanted = Vec::new();
        for case in cases {
            if !self.is_excused(case) {
                wanted.push(case);
            }
        }
        let questions: Vec<Question> = wanted.iter().map(|case| case.question.clone()).collect();
        let fates = match self.executor.knock(&questions) {
            Ok(fates) => fates,
            Err(error) => {
                let place = wanted.first().map(|case| case.step.place.to_string()).unwrap_or_default();
                self.verdict.failures.push(format!("{place}: {error:#}"));
                return;
            }
        };
        for (case, fate) in wanted.into_iter().zip(fates) {
            let is_as_expected = match (&case.line.outcome, &fate) {
                (Outcome::Dropped, Fate::Silent) | (Outcome::Untouched, Fate::Untouched(_)) => true,
                // Sockets cannot tell more than that nobody served.
                (Outcome::Untouched, Fate::Silent | Fate::Refused) => !self.executor.tells_drops(),
                _ => false,
            };
            let outcome = if is_as_expected { Ok(()) } else { Err(describe(&[fate])) };
            self.conclude(case, outcome);
        }
    }

    /// Notes how a case went.
    fn conclude(&mut self, case: &Case<'_>, outcome: Result<(), String>) {
        let (step, line) = (case.step, case.line);
        let question = &case.question;
        let way = format!("{} {}", question.protocol.name(), question.to);
        let event = match (&line.pending, &self.scenario.pending, outcome) {
            (_, Some(_), Ok(())) | (None, None, Ok(())) => Event::Passed,
            (Some(reason), None, Ok(())) => {
                self.fail(step, line, &way, &format!("it passes: take `(pending: {reason})` away"));
                Event::Failed
            }
            (Some(reason), None, Err(_)) => {
                let reason = format!("{}: {reason}", step.place);
                if !self.verdict.pending.contains(&reason) {
                    self.verdict.pending.push(reason);
                }
                Event::Pending
            }
            (_, Some(_), Err(message)) => {
                self.fail(step, line, &way, &message);
                Event::Pending
            }
            (None, None, Err(message)) => {
                self.fail(step, line, &way, &message);
                Event::Failed
            }
        };
        self.ledger.add(self.scenario, line, case.family, event);
    }

    fn fail(&mut self, step: &Step, line: &Line, way: &str, message: &str) {
        let Line { text, .. } = line;
        self.verdict.failures.push(format!("{}: {text}\n    {way}: {message}", step.place));
    }

    fn try_case(&mut self, case: &Case<'_>) -> Result<(), String> {
        let question = &case.question;
        let session = self.session(case);
        let ask =
            |executor: &mut dyn Executor, count| executor.ask(question, count).map_err(|error| format!("{error:#}"));
        match &case.line.outcome {
            Outcome::Served(served) => {
                let fates = ask(self.executor, tries(served.len()))?;
                let mut missing: BTreeSet<&str> = served.iter().map(|served| served.by.as_str()).collect();
                for fate in &fates {
                    let by = self.check(fate, served, case, &fates)?;
                    missing.remove(by.as_str());
                    self.last.insert(session.clone(), by);
                }
                if missing.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{missing:?} never answered: {}", describe(&fates)))
                }
            }
            Outcome::OneOf(served) => {
                let fates = ask(self.executor, tries(served.len()))?;
                let mut all = BTreeSet::new();
                for fate in &fates {
                    let by = self.check(fate, served, case, &fates)?;
                    self.last.insert(session.clone(), by.clone());
                    all.insert(by);
                }
                if all.len() == 1 { Ok(()) } else { Err(format!("more than one answered: {}", describe(&fates))) }
            }
            Outcome::TheSame(source) => {
                let by = self.last.get(&session).ok_or("nobody has served this client before")?.clone();
                // An endpoint of two, chosen freely, would be the same by chance once in a million times.
                let fates = ask(self.executor, ASK_FOR_ANOTHER)?;
                let served = [Served { by, seen: source.clone() }];
                fates.iter().try_for_each(|fate| self.check(fate, &served, case, &fates).map(drop))
            }
            Outcome::Another(seconds) => {
                let before = self.last.get(&session).ok_or("nobody has served this client before")?.clone();
                for _ in 0..ASK_FOR_ANOTHER {
                    self.executor.wait(*seconds).map_err(|error| format!("{error:#}"))?;
                    for fate in ask(self.executor, 1)? {
                        let Fate::Served { by, .. } = fate else { return Err(describe(&[fate])) };
                        if by != before {
                            self.last.insert(session, by);
                            return Ok(());
                        }
                    }
                }
                Err(format!("{before} answered each of {ASK_FOR_ANOTHER} times"))
            }
            Outcome::Refused => {
                let fates = ask(self.executor, ASK_IN_VAIN)?;
                let is_refused = fates.iter().all(|fate| *fate == Fate::Refused);
                if is_refused { Ok(()) } else { Err(describe(&fates)) }
            }
            Outcome::Dropped | Outcome::Untouched => Err("cannot be asked by itself".to_owned()),
        }
    }

    /// Whether an endpoint answered that may, and saw what it may. Gives its name.
    fn check(&self, fate: &Fate, served: &[Served], case: &Case<'_>, all: &[Fate]) -> Result<String, String> {
        let Fate::Served { by, seen } = fate else { return Err(describe(all)) };
        let Some(served) = served.iter().find(|served| served.by == *by) else {
            return Err(format!("{by} must not answer: {}", describe(all)));
        };
        let may_see = match &served.seen {
            Source::Any => true,
            Source::Itself => case.question.from.ip(case.family) == *seen,
            Source::Hosts(names) => names.iter().any(|name| places::host(name).is_ok_and(|host| host.has(*seen))),
        };
        if may_see { Ok(by.clone()) } else { Err(format!("{by} must not see {seen}: {}", describe(all))) }
    }

    fn session(&self, case: &Case<'_>) -> Session {
        let Question { from, via, to, protocol } = &case.question;
        let asked = places::hosts().find(|host| host.is_node() && host.has(to.ip())).and_then(|host| host.node());
        let entry = asked.or(*via).or(from.node());
        let port = service_port(&self.objects, case.line).unwrap_or_else(|| to.to_string());
        (from.name, entry, to.is_ipv4(), *protocol, port)
    }
}

/// How often a client asks so that each of `count` endpoints, chosen evenly, is missed in less than one of a million
/// runs: `count × (1 - 1/count)^tries < 10⁻⁶`. An endpoint more than expected is missed in less than one of a thousand.
pub fn tries(count: usize) -> usize {
    let count = u32::try_from(count).map_or(f64::MAX, f64::from);
    let (mut missed, mut unseen, mut tries) = (count, 1.0, 0);
    while missed >= 1e-6 || unseen >= 1e-3 {
        missed *= 1.0 - 1.0 / count;
        unseen *= count / (count + 1.0);
        tries += 1;
    }
    tries
}

/// What came of asking several times, each kind once with how often it was.
fn describe(fates: &[Fate]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for fate in fates {
        let words = match fate {
            Fate::Served { by, seen } => format!("{by} answered and saw {seen}"),
            Fate::Refused => "refused".to_owned(),
            Fate::Silent => "no answer".to_owned(),
            Fate::Untouched(words) => format!("untouched by the proxy: {words}"),
            Fate::Odd(words) => words.clone(),
        };
        *counts.entry(words).or_default() += 1;
    }
    let counts: Vec<String> = counts.into_iter().map(|(words, count)| format!("{words} ({count} ×)")).collect();
    counts.join(", ")
}

/// The addresses of a target in a family.
fn addresses(objects: &Objects, target: &Target, family: Family) -> Result<Vec<IpAddr>> {
    let parsed = |values: Vec<&Value>| -> Vec<IpAddr> {
        let texts = values.into_iter().filter_map(Value::as_str);
        let addresses = texts.flat_map(proxy_agent::object::parse_address);
        addresses.filter(|address| Family::of(*address) == family).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    Ok(match target {
        Target::ClusterIp(key) => {
            let spec = &objects.get(key)?["spec"];
            let mut all = list(&spec["clusterIPs"]);
            all.push(spec["clusterIP"].clone());
            parsed(all.iter().collect())
        }
        Target::ExternalIp(key) => parsed(list(&objects.get(key)?["spec"]["externalIPs"]).iter().collect()),
        Target::LoadBalancer(key) => {
            let ingress = list(&objects.get(key)?["status"]["loadBalancer"]["ingress"]);
            parsed(ingress.iter().map(|ingress| &ingress["ip"]).collect())
        }
        Target::Host(name) => vec![places::host(name)?.ip(family)],
        Target::Second(name) => vec![places::host(name)?.second(family).context("no second address")?],
        Target::Localhost => vec![match family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }],
        Target::Address(address) if Family::of(*address) == family => vec![*address],
        Target::Address(_) => Vec::new(),
    })
}

/// The Service's port that a line is about, for those who remember their clients by it.
fn service_port(objects: &Objects, line: &Line) -> Option<String> {
    let by_key = |key: &Key| Some(format!("{key}:{}", line.port));
    match &line.to {
        Target::ClusterIp(key) | Target::ExternalIp(key) | Target::LoadBalancer(key) => by_key(key),
        Target::Host(_) | Target::Second(_) | Target::Localhost => objects.iter().find_map(|(key, object)| {
            let ports = object["spec"]["ports"].as_array()?;
            let port = ports.iter().find(|port| port["nodePort"].as_u64() == Some(u64::from(line.port)))?;
            Some(format!("{key}:{}", port["port"]))
        }),
        Target::Address(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often_is_asked() {
        assert_eq!((1..=4).map(tries).collect::<Vec<_>>(), [10, 21, 37, 53]);
    }
}
