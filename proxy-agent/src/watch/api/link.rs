//! What is said about the connection to the API server: once when it is lost, once when it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

use super::servers::Failure;
use crate::event::Event;
use crate::object::{Kind, Problem};

/// The state of the connection, over all kinds that are watched.
#[derive(Debug)]
pub(super) struct Link {
    addresses: String,
    hint: Option<String>,
    /// 1 while it is there.
    up: Gauge,
    /// Kinds that wait for their next try are told when another has got an answer again.
    back: watch::Sender<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The kinds whose last request got no answer.
    unanswered: BTreeSet<Kind>,
    /// What was said when the first of them failed.
    lost: Option<Problem>,
    /// What was said about a kind whose requests are refused.
    refused: BTreeMap<Kind, Problem>,
}

impl Link {
    pub(super) fn new(addresses: String, hint: Option<String>, up: Gauge) -> Self {
        Self { addresses, hint, up, back: watch::Sender::default(), state: Mutex::default() }
    }

    /// Told each time that a kind whose last request got no answer gets one.
    pub(super) fn back(&self) -> watch::Receiver<()> {
        self.back.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change below is one step, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request about this kind failed. Returns what is new about that.
    pub(super) fn failed(&self, kind: Kind, failure: &Failure) -> Vec<Event> {
        let mut state = self.state();
        match failure {
            Failure::NoAnswer(cause) => {
                let mut news = state.allowed(kind);
                state.unanswered.insert(kind);
                self.up.set(0);
                if state.lost.is_none() {
                    let hint = self.hint.as_deref().unwrap_or_default();
                    let problem = said(format!(
                        "cannot reach the API server ({}): {cause}; the kernel keeps what it has, trying again{hint}",
                        self.addresses
                    ));
                    state.lost = Some(problem.clone());
                    news.push(Event::Problem(problem));
                }
                news
            }
            Failure::Refused(_, message) => {
                let mut news = state.reached(kind);
                let problem = said(format!("the API server refuses to list or watch {kind}s: {message}; trying again"));
                if state.refused.get(&kind) != Some(&problem) {
                    news.extend(state.allowed(kind));
                    state.refused.insert(kind, problem.clone());
                    news.push(Event::Problem(problem));
                }
                news
            }
            Failure::Expired => state.reached(kind),
        }
    }

    /// A request about this kind was answered. Returns what is new about that.
    pub(super) fn answered(&self, kind: Kind) -> Vec<Event> {
        let mut state = self.state();
        if state.unanswered.contains(&kind) {
            self.back.send_replace(());
        }
        let mut news = state.reached(kind);
        news.extend(state.allowed(kind));
        if state.unanswered.is_empty() {
            self.up.set(1);
        }
        news
    }
}

impl State {
    fn reached(&mut self, kind: Kind) -> Vec<Event> {
        self.unanswered.remove(&kind);
        let is_back = self.unanswered.is_empty();
        self.lost.take_if(|_| is_back).map(Event::Mended).into_iter().collect()
    }

    fn allowed(&mut self, kind: Kind) -> Vec<Event> {
        self.refused.remove(&kind).map(Event::Mended).into_iter().collect()
    }
}

fn said(message: String) -> Problem {
    Problem { place: None, object: None, message }
}
