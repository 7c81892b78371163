//! What the agent serves over HTTP: `/healthz` and `/livez`, `/metrics` and what belongs to it, and the health check
//! node ports of Services. Paths, answers and ports are kube-proxy's.
//!
//! The servers have a thread of their own, so that they answer while the owner of the state is busy, and the owner never
//! waits for them. They share a [`State`] of numbers with it; nothing here changes what the kernel holds.

mod health;
mod health_check;
mod healthz;
mod http;
pub mod metrics;
mod state;
mod status;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::events::Recorder;

pub use health_check::Checks;
pub use http::ServeError;
pub use metrics::{Metrics, PinnedMaps};
pub use state::State;

/// Where to serve.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// `/healthz` and `/livez`; `None`: nowhere.
    pub healthz: Option<SocketAddr>,
    /// `/metrics`; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// An address that cannot be bound to is an error instead of something to be tried again.
    pub hard_fail: bool,
}

/// Running servers. They end when this is dropped.
#[derive(Debug)]
pub struct Serving {
    failures: mpsc::UnboundedReceiver<ServeError>,
    _alive: oneshot::Sender<()>,
}

impl Serving {
    /// Returns when a server could not be started and the agent is to end for it.
    pub async fn failed(&mut self) -> ServeError {
        match self.failures.recv().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }
}

/// Starts all servers.
///
/// # Errors
/// When there can be no thread or no runtime.
pub fn start(
    state: Arc<State>,
    addresses: Addresses,
    checks: watch::Receiver<Checks>,
    recorder: Recorder,
) -> io::Result<Serving> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (failed, failures) = mpsc::unbounded_channel();
    let (alive, ended) = oneshot::channel::<()>();
    let all = async move {
        let hard_fail = || addresses.hard_fail.then(|| failed.clone());
        if let Some(address) = addresses.healthz {
            let router = healthz::router(state.clone());
            tokio::spawn(http::keep_serving("healthz", address, router, hard_fail()));
        }
        if let Some(address) = addresses.metrics {
            let router = status::router(state.clone());
            tokio::spawn(http::keep_serving("metrics", address, router, hard_fail()));
        }
        tokio::spawn(health_check::run(state, checks, recorder));
        let _sender_gone = ended.await;
    };
    std::thread::Builder::new().name("serve".to_owned()).spawn(move || runtime.block_on(all))?;
    Ok(Serving { failures, _alive: alive })
}
