//! Endpoints that come and go, a Service that has none, an agent that dies.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use proxy_testkit::agent::Agent;
use proxy_testkit::client::{self, Burst};
use proxy_testkit::lab::{Family, Protocol};
use proxy_testkit::manifest::{Published, Service};
use proxy_testkit::server::{ECHO, WHO};
use proxy_testkit::{Host, Lab};

use super::story::{chapter, fact, say, verify};

/// Between two changes.
const PACE: Duration = Duration::from_millis(1200);
const NODE_PORT: u16 = 30090;
/// TCP tries again after a second: whoever is told sooner was told, and did not just wait.
const AT_ONCE: Duration = Duration::from_millis(500);

fn busy<'a>(backends: impl IntoIterator<Item = &'a Host>) -> Service {
    Service::new("busy", 12)
        .port(Protocol::Tcp, 80, WHO)
        .node_port(NODE_PORT)
        .port(Protocol::Tcp, 7, ECHO)
        .backends(backends)
}

/// A timeline, with traffic that never pauses.
pub fn endpoints_come_and_go(lab: &Lab) -> Result<()> {
    let (one, two) = (&lab.node1, &lab.node2);
    chapter(
        "Endpoints come and go while traffic flows",
        "pod1c (IPv4) and pod2c (IPv6) connect to the Service `busy` without a pause, the client outside through node2's port;\na long-lived connection to pod1a carries data all the while.",
    );
    let service = busy([&one.a, &one.b]);
    let published = lab.publish(&service)?;
    let only_a = Service::new("long", 13).port(Protocol::Tcp, 7, ECHO).backends([&one.a]);
    let stop = AtomicBool::new(false);
    let counts = Mutex::new(Burst::default());
    let steps: [(&str, Vec<&Host>); 4] = [
        ("with pod1a and pod1b", vec![&one.a, &one.b]),
        ("pod2a is added", vec![&one.a, &one.b, &two.a]),
        ("pod1a is removed", vec![&one.b, &two.a]),
        ("pod1a is back, pod1b is gone", vec![&one.a, &two.a]),
    ];
    let (told, long) = thread::scope(|scope| {
        let (stop, counts) = (&stop, &counts);
        let clients = [
            (&one.c, service.at(Family::V4, 80)),
            (&two.c, service.at(Family::V6, 80)),
            (&lab.client, two.host.at(Family::V4, NODE_PORT)),
        ];
        for (from, to) in clients {
            scope.spawn(move || ask_until(from, to, stop, counts));
        }
        let long = scope.spawn(|| hold(lab, &only_a, stop));
        let told = timeline(lab, &steps, counts, &published);
        stop.store(true, Ordering::Relaxed);
        (told, long.join())
    });
    told?;
    let sent = long.map_err(|_| anyhow!("the long-lived connection's thread panicked"))??;
    fact("Not one connection failed, and each pod got new ones only while it was an endpoint.");
    fact(&format!(
        "The long-lived connection sent {sent} messages and got each one back; its endpoint was removed meanwhile."
    ));
    Ok(())
}

/// Connects again and again, and counts.
fn ask_until(from: &Host, to: SocketAddr, stop: &AtomicBool, counts: &Mutex<Burst>) {
    let ask = || {
        while !stop.load(Ordering::Relaxed) {
            let result = client::ask_tcp(to);
            counts.lock().unwrap_or_else(PoisonError::into_inner).count(&result);
        }
    };
    // A namespace that cannot be entered shows as no answers at all.
    let _ = from.ns.run(ask);
}

fn timeline(lab: &Lab, steps: &[(&str, Vec<&Host>)], counts: &Mutex<Burst>, published: &Published) -> Result<()> {
    let started = Instant::now();
    for (what, backends) in steps {
        lab.change(published, &busy(backends.iter().copied()))?;
        // Connections that began before the change still count for what was before.
        thread::sleep(Duration::from_millis(100));
        take(counts);
        thread::sleep(PACE);
        let burst = take(counts);
        let shares: Vec<_> = burst.answered.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
        let failed: usize = burst.failed.values().sum();
        let at = started.elapsed().as_secs_f64();
        say!("    {at:4.1} s  {what:<29} {:<34} {failed} failures", shares.join(", "));
        verify(failed == 0, || format!("connections failed: {:?}", burst.failed))?;
        let mut expected: Vec<_> = backends.iter().map(|pod| pod.name.as_str()).collect();
        expected.sort_unstable();
        verify(burst.answered.keys().eq(expected.iter()), || format!("expected answers of {expected:?}"))?;
    }
    Ok(())
}

fn take(counts: &Mutex<Burst>) -> Burst {
    std::mem::take(&mut *counts.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Keeps one connection busy through a Service that loses its only endpoint half way.
fn hold(lab: &Lab, service: &Service, stop: &AtomicBool) -> Result<u64> {
    use std::io::{Read as _, Write as _};
    let published = lab.publish(service)?;
    let mut stream = lab.node2.b.inside(|| client::connect(service.at(Family::V4, 7)))?;
    let started = Instant::now();
    let mut is_served = true;
    let mut sent = 0u64;
    while !stop.load(Ordering::Relaxed) {
        if is_served && started.elapsed() > PACE * 2 {
            lab.change(&published, &service.clone().backends([]))?;
            is_served = false;
        }
        let message = sent.to_be_bytes();
        let mut back = [0u8; 8];
        stream
            .write_all(&message)
            .and_then(|()| stream.read_exact(&mut back))
            .with_context(|| format!("message {sent} was lost"))?;
        verify(back == message, || format!("message {sent} came back altered"))?;
        sent += 1;
        thread::sleep(Duration::from_millis(2));
    }
    verify(!is_served, || "the endpoint was never removed".into())?;
    Ok(sent)
}

/// Told at once, in each way there is.
pub fn nobody_serves(lab: &Lab) -> Result<()> {
    const PORT: u16 = 30091;
    let service = Service::new("empty", 14)
        .port(Protocol::Tcp, 80, WHO)
        .node_port(PORT)
        .port(Protocol::Udp, 80, WHO)
        .node_port(PORT);
    let _published = lab.publish(&service)?;
    chapter(
        "Nobody serves: said at once",
        "The Service `empty` has no endpoints. Clients should not wait for an answer that cannot come.",
    );
    for family in Family::BOTH {
        for (from, to) in [(&lab.node1.a, service.at(family, 80)), (&lab.client, lab.node2.host.at(family, PORT))] {
            for protocol in Protocol::BOTH {
                let started = Instant::now();
                let result = from.ask(protocol, to);
                let taken = started.elapsed();
                let is_refused = matches!(&result, Err(error) if error.kind() == ErrorKind::ConnectionRefused);
                let name = match protocol {
                    Protocol::Tcp => "TCP",
                    Protocol::Udp => "UDP",
                };
                let way = format!("{:<6} to {to}, {name}", from.name);
                verify(is_refused, || format!("{way}: not refused but {result:?} after {taken:?}"))?;
                verify(taken < AT_ONCE, || format!("{way}: refused only after {taken:?}"))?;
                say!("    {way:<45} connection refused after {} µs", taken.as_micros());
            }
        }
    }
    fact("All were refused, none had to wait.");
    Ok(())
}

/// A crash, with traffic that does not notice.
pub fn the_agent_dies(lab: &mut Lab) -> Result<()> {
    chapter(
        "The agent of node1 crashes",
        "It is killed with SIGKILL while pod1c goes on connecting to a Service over IPv4 and IPv6, and started again.",
    );
    let service = Service::new("steady", 16).port(Protocol::Tcp, 80, WHO).backends([&lab.node1.a, &lab.node2.a]);
    let _published = lab.publish(&service)?;
    let from = lab.node1.c.clone();
    let agent = lab.agents_mut().first_mut().context("there is no agent")?;
    let before = agent.dump_map("frontend_v4")?;
    let stop = AtomicBool::new(false);
    let counts = Mutex::new(Burst::default());
    let told = thread::scope(|scope| {
        for family in Family::BOTH {
            let to = service.at(family, 80);
            scope.spawn({
                let (from, stop, counts) = (&from, &stop, &counts);
                move || ask_until(from, to, stop, counts)
            });
        }
        let told = crash_and_restart(agent, &counts);
        stop.store(true, Ordering::Relaxed);
        told
    });
    told?;
    let after = agent.dump_map("frontend_v4")?;
    verify(before == after, || "the frontends in the kernel are not what they were".into())?;
    fact("No connection failed, and the restarted agent found everything right and changed nothing.");
    Ok(())
}

fn crash_and_restart(agent: &mut Agent, counts: &Mutex<Burst>) -> Result<()> {
    let show = |what: &str| {
        let burst = take(counts);
        let failed: usize = burst.failed.values().sum();
        say!("    {what:<29} {:<34} {failed} failures", format!("{} connections", burst.total()));
        verify(failed == 0 && burst.total() > 0, || format!("connections failed: {:?}", burst.failed))
    };
    thread::sleep(PACE / 2);
    show("the agent runs")?;
    agent.kill();
    thread::sleep(PACE);
    show("there is no agent")?;
    agent.start()?;
    agent.wait_until_ready()?;
    thread::sleep(PACE / 2);
    show("it is back")
}
