//! A process that is watched: its output is collected, and it is ended and reaped whatever happens.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::shell;
use crate::teardown::{self, Undo};

/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// A started process.
#[derive(Debug)]
pub struct Process {
    shown: String,
    child: Arc<Mutex<Child>>,
    log: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    _undo: Undo,
}

impl Process {
    /// Starts a command and collects what it writes.
    pub fn start(command: Command) -> Result<Self> {
        Self::start_with(command, None)
    }

    /// The same, and its output also goes to a file, for those who look on.
    pub fn start_logging(command: Command, file: &Path) -> Result<Self> {
        let opened = OpenOptions::new().append(true).create(true).open(file);
        let file = opened.with_context(|| format!("cannot open {}", file.display()))?;
        Self::start_with(command, Some(Arc::new(file)))
    }

    fn start_with(mut command: Command, file: Option<Arc<File>>) -> Result<Self> {
        let shown = shell::show(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (child, undo) = teardown::step(|| {
            let child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
            let child = Arc::new(Mutex::new(child));
            let to_end = Arc::clone(&child);
            Ok((child, move || end(&mut lock(&to_end), GRACE)))
        })?;
        let log = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        readers.extend(lock(&child).stdout.take().map(|pipe| collect(pipe, &log, file.clone())));
        readers.extend(lock(&child).stderr.take().map(|pipe| collect(pipe, &log, file.clone())));
        Ok(Self { shown, child, log, readers, _undo: undo })
    }

    /// Everything written so far, standard output and standard error as they came.
    pub fn log(&self) -> String {
        lock(&self.log).clone()
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        matches!(lock(&self.child).try_wait(), Ok(None))
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Ends it as a crash would: SIGKILL. Gives its log.
    pub fn kill(mut self) -> String {
        let _ = lock(&self.child).kill();
        let _ = lock(&self.child).wait();
        self.finish()
    }

    /// Ends it by SIGTERM; that it takes longer than a few seconds or ends with an error is an error.
    pub fn terminate(mut self) -> Result<String> {
        let status = end_politely(&mut lock(&self.child), GRACE);
        end(&mut lock(&self.child), Duration::ZERO);
        let log = self.finish();
        match status {
            Some(status) if status.success() => Ok(log),
            Some(status) => bail!("`{}` ended with {status} after SIGTERM:\n{log}", self.shown),
            None => bail!("`{}` did not end within {GRACE:?} of SIGTERM:\n{log}", self.shown),
        }
    }

    fn finish(&mut self) -> String {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        self.log()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn collect(pipe: impl Read + Send + 'static, log: &Arc<Mutex<String>>, file: Option<Arc<File>>) -> JoinHandle<()> {
    let log = Arc::clone(log);
    thread::spawn(move || {
        for mut line in BufReader::new(pipe).split(b'\n').map_while(|line| line.ok()) {
            if let Some(file) = &file {
                line.push(b'\n');
                // The copy in memory is the one that counts.
                let _ = (&**file).write_all(&line);
                line.pop();
            }
            let mut log = lock(&log);
            log.push_str(&String::from_utf8_lossy(&line));
            log.push('\n');
        }
    })
}

fn end_politely(child: &mut Child, grace: Duration) -> Option<ExitStatus> {
    if let Ok(Some(status)) = child.try_wait() {
        return Some(status);
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).ok()?);
    let _ = kill(pid, Signal::SIGTERM);
    let deadline = Instant::now() + grace;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            _ => return None,
        }
    }
}

fn end(child: &mut Child, grace: Duration) {
    if end_politely(child, grace).is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
}
