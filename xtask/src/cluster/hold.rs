//! The process that holds the cluster, and those that start and end it.
//!
//! Invariant: a cluster is up while somebody holds the lock on the file with its process id.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy_testkit::agent::AgentOptions;
use proxy_testkit::cluster::Cluster;
use proxy_testkit::teardown;

use super::guide;
use crate::{interrupt, workspace};

/// Gone after a reboot, as the cluster is.
const FOLDER: &str = "/run/pointsman-cluster";
/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the holder and waits until all stands.
pub fn up() -> Result<ExitCode> {
    if let Some(pid) = holder()? {
        bail!(
            "a cluster is up already (process {pid}): {FOLDER}/guide tells how to use it, `cargo xtask cluster down` ends it"
        );
    }
    workspace::build_agent()?;
    let started = Instant::now();
    // From here on there is something to take away.
    interrupt::outlive_children()?;
    clear()?;
    fs::create_dir_all(FOLDER).with_context(|| format!("could not make {FOLDER}"))?;
    let log = file("log");
    let output = File::create(&log).with_context(|| format!("could not make {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe().context("cannot tell where this program is")?);
    command.args(["cluster", "hold"]).current_dir("/").stdin(Stdio::null());
    command.stdout(output.try_clone()?).stderr(output).process_group(0);
    let mut child = command.spawn().context("could not start the process that holds the cluster")?;
    println!(
        "Starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler and two nodes with an agent each."
    );
    while !file("guide").exists() {
        let ended = child.try_wait().context("could not look after the process that holds the cluster")?;
        if ended.is_some() || interrupt::requested() {
            let _ = kill(pid_of(&child)?, Signal::SIGTERM);
            let _ = child.wait();
            let said = fs::read_to_string(&log).unwrap_or_default();
            clear()?;
            bail!("the cluster did not come up:\n{}", said.trim());
        }
        thread::sleep(Duration::from_millis(100));
    }
    println!("It stands after {:.1} s.\n", started.elapsed().as_secs_f64());
    print!("{}", fs::read_to_string(file("guide")).context("could not read the guide")?);
    Ok(ExitCode::SUCCESS)
}

/// Ends the holder and waits for it.
pub fn down() -> Result<ExitCode> {
    let Some(pid) = holder()? else {
        clear()?;
        println!("No cluster is up.");
        return Ok(ExitCode::SUCCESS);
    };
    kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("could not end process {pid}"))?;
    let deadline = Instant::now() + PATIENCE;
    while holder()?.is_some() {
        if Instant::now() > deadline {
            bail!("process {pid} did not end within {} s; its log is {}", PATIENCE.as_secs(), file("log").display());
        }
        thread::sleep(Duration::from_millis(100));
    }
    clear()?;
    println!("The cluster is down, and everything was taken away.");
    Ok(ExitCode::SUCCESS)
}

/// Holds a cluster until SIGTERM.
pub fn hold() -> Result<ExitCode> {
    let path = file("pid");
    let pid = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let pid = pid.with_context(|| format!("could not make {}", path.display()))?;
    let mut pid = Flock::lock(pid, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .with_context(|| format!("somebody else holds {}", path.display()))?;
    write!(pid, "{}", std::process::id())?;
    let cluster = Cluster::start(Some(AgentOptions::default()))?;
    guide::write(&cluster, Path::new(FOLDER))?;
    teardown::wait_for_the_end()
}

/// The process that holds a cluster, if there is one.
fn holder() -> Result<Option<i32>> {
    let path = file("pid");
    let Ok(mut pid) = File::open(&path) else { return Ok(None) };
    let mut text = String::new();
    pid.read_to_string(&mut text).with_context(|| format!("could not read {}", path.display()))?;
    match Flock::lock(pid, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(None),
        Err((_, Errno::EWOULDBLOCK)) => text.parse().map(Some).with_context(|| format!("{}: {text:?}", path.display())),
        Err((_, error)) => Err(error).with_context(|| format!("could not look at {}", path.display())),
    }
}

fn pid_of(child: &std::process::Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

fn file(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn clear() -> Result<()> {
    if Path::new(FOLDER).exists() {
        fs::remove_dir_all(FOLDER).with_context(|| format!("could not remove {FOLDER}"))?;
    }
    Ok(())
}
