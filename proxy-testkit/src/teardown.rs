//! What has to be undone, whatever ends the process.
//!
//! Invariant: an undo action runs exactly once: when its [`Undo`] is dropped, or at Ctrl-C, SIGTERM or exit of
//! the process, newest first. Only `kill -9` leaves something behind; [`sweep`](crate::netns::sweep) sees to that.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use anyhow::Result;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

type Action = Box<dyn FnOnce() + Send>;

static ACTIONS: Mutex<(u64, BTreeMap<u64, Action>)> = Mutex::new((0, BTreeMap::new()));
/// Held for reading while a step is taken.
static STEPPING: RwLock<()> = RwLock::new(());
/// Set once a signal has begun to undo everything.
static CLOSING: AtomicBool = AtomicBool::new(false);
/// The end of the pipe that the signal handler writes to.
static WAKE: AtomicI32 = AtomicI32::new(-1);
/// Set where a signal is the expected end.
static IS_EXPECTED: AtomicBool = AtomicBool::new(false);
static START: Once = Once::new();

/// Runs its action when dropped, if nothing has run it before.
#[must_use = "the action runs as soon as this is dropped"]
#[derive(Debug)]
pub struct Undo(u64);

/// Takes a step and registers what undoes it, as one: no signal comes between. Neither the step nor what undoes it may
/// use this module.
pub fn step<T, A>(step: impl FnOnce() -> Result<(T, A)>) -> Result<(T, Undo)>
where
    A: FnOnce() + Send + 'static,
{
    START.call_once(|| {
        if let Err(error) = watch_signals() {
            eprintln!("Ctrl-C will not clean up: cannot watch signals: {error}");
        }
        // SAFETY: a plain function of the C library with a function that lives as long as the process.
        unsafe { libc::atexit(at_exit) };
    });
    let _stepping = begin_step();
    let (made, action) = step()?;
    let mut actions = actions();
    actions.0 += 1;
    let id = actions.0;
    actions.1.insert(id, Box::new(action));
    Ok((made, Undo(id)))
}

/// The right to take a step. Whoever undoes everything waits for the steps that have begun.
///
/// Once everything is being undone, no other thread may build on, or end the process half way: it waits for the end.
fn begin_step() -> RwLockReadGuard<'static, ()> {
    let stepping = STEPPING.read().unwrap_or_else(PoisonError::into_inner);
    if CLOSING.load(Ordering::SeqCst) {
        drop(stepping);
        loop {
            thread::park();
        }
    }
    stepping
}

impl Drop for Undo {
    fn drop(&mut self) {
        // To undo is a step as well: the process does not end half way.
        let _stepping = begin_step();
        let action = actions().1.remove(&self.0);
        if let Some(action) = action {
            action();
        }
    }
}

/// Waits for Ctrl-C or SIGTERM, which then undo everything and end the process with success.
pub fn wait_for_the_end() -> ! {
    IS_EXPECTED.store(true, Ordering::SeqCst);
    loop {
        thread::park();
    }
}

fn actions() -> MutexGuard<'static, (u64, BTreeMap<u64, Action>)> {
    ACTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn undo_all() {
    loop {
        let newest = actions().1.pop_last();
        match newest {
            Some((_, action)) => action(),
            None => break,
        }
    }
}

extern "C" fn at_exit() {
    if !CLOSING.load(Ordering::SeqCst) {
        undo_all();
    }
}

extern "C" fn on_signal(signal: libc::c_int) {
    let number = u8::try_from(signal).unwrap_or_default();
    // SAFETY: write(2) is safe in a signal handler; the byte outlives the call.
    unsafe { libc::write(WAKE.load(Ordering::SeqCst), (&raw const number).cast(), 1) };
}

fn watch_signals() -> io::Result<()> {
    let (read, write): (OwnedFd, OwnedFd) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    WAKE.store(write.into_raw_fd(), Ordering::SeqCst);
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but a write(2).
        unsafe { sigaction(signal, &action) }?;
    }
    thread::Builder::new().name("teardown".into()).spawn(move || {
        let mut number = [0u8];
        // SAFETY: reads one byte into a buffer of one byte from a descriptor this thread owns.
        while unsafe { libc::read(read.as_raw_fd(), number.as_mut_ptr().cast(), 1) } != 1 {}
        CLOSING.store(true, Ordering::SeqCst);
        drop(STEPPING.write());
        undo_all();
        let status = if IS_EXPECTED.load(Ordering::SeqCst) { 0 } else { 128 + libc::c_int::from(number[0]) };
        // SAFETY: ends the process; what at_exit would do is done.
        unsafe { libc::_exit(status) }
    })?;
    Ok(())
}
