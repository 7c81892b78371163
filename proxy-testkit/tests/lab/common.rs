//! What scenarios share: the standard lab, and turns.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use proxy_testkit::Lab;

/// One test at a time: they share two cores and count packets.
static TURN: Mutex<()> = Mutex::new(());
/// The standard lab, made by the first test that wants it, removed at exit.
static STANDARD: OnceLock<Mutex<Lab>> = OnceLock::new();

/// A test's turn. Prints the agents' logs where the test fails.
pub struct Turn<T> {
    lab: T,
    _turn: Option<MutexGuard<'static, ()>>,
}

/// The standard lab, shared.
pub fn standard() -> Turn<MutexGuard<'static, Lab>> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = STANDARD.get_or_init(|| Mutex::new(Lab::standard().unwrap()));
    Turn { lab: lab.lock().unwrap_or_else(PoisonError::into_inner), _turn: Some(turn) }
}

/// A lab for one test alone.
pub fn alone(make: impl FnOnce() -> anyhow::Result<Lab>) -> Turn<Box<Lab>> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Turn { lab: Box::new(make().unwrap()), _turn: Some(turn) }
}

impl<T: std::ops::Deref<Target = Lab>> std::ops::Deref for Turn<T> {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl<T: std::ops::DerefMut<Target = Lab>> std::ops::DerefMut for Turn<T> {
    fn deref_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }
}
