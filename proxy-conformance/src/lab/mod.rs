//! Scenarios with real agents and real sockets, in network namespaces.

mod ask;
mod sctp;

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use proxy_agent::kernel::{MapSet, PinPath};
use proxy_agent::model::{ModelOptions, desired};
use proxy_agent::plan::plan;
use proxy_testkit::agent::AgentOptions;
use proxy_testkit::lab::{self, Family, Host, Lab, Options};
use proxy_testkit::server::Servers;

use crate::host::{capacities, sizes, store, view};
use crate::options;
use crate::places;
use crate::run::{Executor, Fate, Question};
use crate::scenario::{Action, Objects, Protocol, Scenario};

/// How long agents may take to take objects up: far more than they need.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any answer takes.
const FOR_AN_ANSWER: Duration = Duration::from_secs(4);
/// After so many answers that did not come no others are waited for.
const ENOUGH: usize = 2;
/// How long silence has to last. An answer takes a few milliseconds; on a machine so busy that it takes longer than this, a
/// client that must be dropped and is served goes unnoticed.
const FOR_SILENCE: Duration = Duration::from_millis(700);

/// A lab whose agents have some flags.
pub struct LabExecutor {
    // Declared first: servers end before the namespaces that they are in.
    _servers: Vec<Servers>,
    maps: [MapSet; 2],
    lab: Lab,
    options: ModelOptions,
    applied: Option<Objects>,
}

impl LabExecutor {
    /// Makes a lab for scenarios, with a server at each port that their endpoints have.
    ///
    /// # Errors
    /// When the lab cannot be made, or the agents do not start.
    pub fn new(flags: &[String], scenarios: &[&Scenario]) -> Result<Self> {
        let (options, _) = options::read(flags)?;
        let agents =
            AgentOptions { arguments: flags.iter().cloned().chain(size_flags()).collect(), ..Default::default() };
        let lab = Lab::new(Options { agents: Some(agents), second_addresses: true, ..Options::default() })?;
        let stranger = lab.stranger.as_ref().context("the lab has no second client")?;
        for client in [&lab.client, stranger] {
            routes_by_mark(client)?;
        }
        let mut servers = Vec::new();
        let ports = ports(scenarios)?;
        for node in lab.nodes() {
            servers.push(serve(&node.host, &ports, &[])?);
            let usual = [proxy_testkit::server::WHO, proxy_testkit::server::HTTP, proxy_testkit::server::ECHO];
            for pod in node.pods() {
                servers.push(serve(pod, &ports, &usual)?);
            }
        }
        let maps = |number: usize| -> Result<MapSet> {
            let agent = lab.agents().get(number).context("no agent")?;
            Ok(MapSet::open(&PinPath::new(agent.pins()).maps())?)
        };
        let maps = [maps(0)?, maps(1)?];
        Ok(Self { _servers: servers, maps, lab, options, applied: None })
    }

    /// What is to be said at the end of all scenarios.
    ///
    /// # Errors
    /// When conntrack called packets invalid.
    pub fn finish(self) -> Result<()> {
        let invalid = self.lab.invalid_packets()?;
        ensure!(invalid == 0, "conntrack called {invalid} packets invalid");
        Ok(())
    }

    fn host(&self, name: &str) -> Result<&Host> {
        let [one, two] = self.lab.nodes();
        let inside = [one, two].into_iter().flat_map(|node| node.pods().into_iter().chain([&node.host]));
        let outside = [&self.lab.client].into_iter().chain(self.lab.stranger.as_ref());
        inside.chain(outside).find(|host| host.name == name).with_context(|| format!("the lab has no {name}"))
    }

    /// Whether the maps of both nodes are what the objects ask for: a plan would have nothing to do.
    fn is_taken_up(&self, objects: &Objects) -> Result<Result<(), String>> {
        let store = store(objects);
        for (number, maps) in (1..).zip(&self.maps) {
            let Some((desired, _)) = desired(&store, &view(number), &self.options) else { bail!("nothing is listed") };
            let plan = plan(&desired, &maps.read()?, &capacities());
            if !plan.ops.is_empty() {
                let first: Vec<String> = plan.ops.iter().take(3).map(|op| format!("{op:?}")).collect();
                return Ok(Err(format!(
                    "node{number} still has to do {} things: {}, …",
                    plan.ops.len(),
                    first.join(", ")
                )));
            }
        }
        Ok(Ok(()))
    }
}

impl Executor for LabExecutor {
    fn name(&self) -> &'static str {
        "lab"
    }

    fn apply(&mut self, objects: &Objects) -> Result<()> {
        let (mut text, manifests) = (String::new(), self.lab.manifests());
        for (key, object) in objects.iter() {
            let is_known =
                self.applied.as_ref().is_some_and(|applied| applied.get(key).is_ok_and(|known| known == object));
            match key.kind.as_str() {
                "Node" if is_known => {}
                // The lab has written one already, in a file of this name.
                "Node" => manifests.write(&format!("{}.yaml", key.name), &object.to_string())?,
                _ => text.push_str(&format!("---\n{object}\n")),
            }
        }
        manifests.write("objects.yaml", &text)?;
        self.applied = Some(objects.clone());
        let started = Instant::now();
        while let Err(why) = self.is_taken_up(objects)? {
            ensure!(started.elapsed() < PATIENCE, "the agents have not taken the objects up in {PATIENCE:?}: {why}");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn wait(&mut self, seconds: u32) -> Result<()> {
        thread::sleep(Duration::from_secs(u64::from(seconds)));
        Ok(())
    }

    fn ask(&mut self, question: &Question, count: usize) -> Result<Vec<Fate>> {
        let host = self.host(question.from.name)?;
        let ask = || {
            let mut fates = Vec::with_capacity(count);
            while fates.len() < count && fates.iter().filter(|fate| **fate == Fate::Silent).count() < ENOUGH {
                fates.push(ask::once(question, FOR_AN_ANSWER));
            }
            Ok(fates)
        };
        host.inside(ask).with_context(|| format!("inside {}", host.name))
    }

    fn knock(&mut self, questions: &[Question]) -> Result<Vec<Fate>> {
        thread::scope(|scope| {
            let knock = |question: &Question| -> Result<_> {
                let (host, question) = (self.host(question.from.name)?.clone(), question.clone());
                Ok(scope.spawn(move || host.inside(|| Ok(ask::once(&question, FOR_SILENCE)))))
            };
            let running = questions.iter().map(knock).collect::<Result<Vec<_>>>()?;
            running
                .into_iter()
                .map(|thread| Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?))
                .collect()
        })
    }

    fn lacks(&self, protocol: Protocol) -> Option<String> {
        (protocol == Protocol::Sctp && !sctp::is_there()).then(|| "this kernel has no SCTP sockets".to_owned())
    }

    fn tells_drops(&self) -> bool {
        false
    }

    fn trace(&self) -> String {
        let mut text = String::new();
        for agent in self.lab.agents() {
            let log = agent.log();
            let lines: Vec<&str> = log.lines().collect();
            text.push_str(&format!("  the end of {}'s log:\n", agent.node()));
            for line in lines.iter().skip(lines.len().saturating_sub(8)) {
                text.push_str(&format!("    {}\n", line.chars().take(300).collect::<String>()));
            }
        }
        text
    }
}

/// What a client sends with mark 1 or 2, and is for no machine of the segment, goes to that node.
fn routes_by_mark(client: &Host) -> Result<()> {
    client.ns.sysctl(&[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/eth0/rp_filter", "0")])?;
    for number in [1, 2] {
        let (v4, v6) = lab::plan::node(number);
        for (family, via) in [("", v4.to_string()), ("-6 ", v6.to_string())] {
            let (table, mark) = (100 + number, number);
            // `ip -batch` takes the family once, for all lines.
            let mut command = client.ns.command("ip");
            let words = format!("{family}route add default via {via} dev eth0 table {table}");
            proxy_testkit::shell::run(command.args(words.split_whitespace()))?;
            let mut command = client.ns.command("ip");
            let words = format!("{family}rule add fwmark {mark} table {table}");
            proxy_testkit::shell::run(command.args(words.split_whitespace()))?;
        }
    }
    Ok(())
}

/// The agents' maps are small, so that they are soon read.
fn size_flags() -> Vec<String> {
    let sizes = sizes();
    [
        ("frontends", sizes.max_frontends),
        ("slots", sizes.max_slots),
        ("backends", sizes.max_backends),
        ("services", sizes.max_services),
        ("flows", sizes.max_flows),
        ("devices", sizes.max_devices),
        ("ranges", sizes.max_ranges),
        ("affinities", sizes.max_affinities),
        ("datagrams", sizes.max_datagrams),
    ]
    .map(|(what, size)| format!("--max-{what}={size}"))
    .into()
}

/// The ports that endpoints have at any step of the scenarios.
fn ports(scenarios: &[&Scenario]) -> Result<BTreeSet<(Protocol, u16)>> {
    let mut ports = BTreeSet::new();
    for scenario in scenarios {
        let mut objects = Objects::nodes();
        for step in &scenario.steps {
            match &step.action {
                Action::Objects(new) => new.iter().try_for_each(|object| objects.set(object.clone())),
                Action::Endpoints(lines) => lines.apply(&mut objects),
                Action::Patch(key, patch) => objects.patch(key, patch),
                Action::Delete(key) => objects.delete(key),
                Action::Wait(_) | Action::Expect(_) => Ok(()),
            }
            .with_context(|| step.place.to_string())?;
            for (_, slice) in objects.iter().filter(|(key, _)| key.kind == "EndpointSlice") {
                for port in slice["ports"].as_array().into_iter().flatten() {
                    let protocol = Protocol::of(port["protocol"].as_str().unwrap_or("TCP"));
                    let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok());
                    ports.extend(protocol.zip(number));
                }
            }
        }
    }
    Ok(ports)
}

/// Servers at these ports that tell who they are, but for those where the host has servers as it is.
fn serve(host: &Host, ports: &BTreeSet<(Protocol, u16)>, usual: &[u16]) -> Result<Servers> {
    let mut servers = Servers::none(&host.name, &host.ns);
    let is_node = places::host(&host.name)?.is_node();
    for (protocol, port) in ports.iter().filter(|(_, port)| *port != 0 && !usual.contains(port)) {
        match protocol {
            Protocol::Tcp => servers.serve_tcp(*port)?,
            // A node has many addresses, and endpoints are at the one that its Node object names.
            Protocol::Udp if is_node => {
                for family in Family::BOTH {
                    servers.serve_udp_at(host.at(family, *port))?;
                }
            }
            Protocol::Udp => servers.serve_udp(*port)?,
            Protocol::Sctp if sctp::is_there() => {
                for family in Family::BOTH {
                    servers.serve_listener(host.inside(|| sctp::listen(host.at(family, *port)))?);
                }
            }
            Protocol::Sctp => {}
        }
    }
    Ok(servers)
}
