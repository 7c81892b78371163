//! The cluster as a source: Services, EndpointSlices and this Node, from the API server.
//!
//! Each kind is listed, as a stream where the API server offers that and in pages elsewhere, and then watched, as
//! client-go's reflector does it (`tools/cache/reflector.go`): bookmarks keep the place, an expired place (410) means a new list, and retries
//! come later each time and at random, so that the nodes of a cluster do not come back all at once. The first kind that
//! gets an answer again tells the others of the same agent.
//!
//! Why not kube's own watcher: it decodes a list as a whole, so that one odd object hides all others, and it
//! does not tell when a watch was taken up again, so that nobody could say that the API server is back.
//!
//! Invariant: objects are checked one by one and converted at once; what no rule reads (managedFields above all)
//! is dropped with the text it came in. Absent on purpose: any way to the API server through a Service address
//! that this agent itself serves.

mod decode;
mod link;
mod post;
mod reflector;
mod servers;
mod stats;

#[cfg(test)]
mod mock;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use prometheus_client::registry::Registry;

use crate::event::EventSender;
use crate::object::Kind;
use link::Link;
use reflector::Reflector;
use servers::Servers;

pub use post::{PostError, Poster};
pub use servers::ApiError;

/// Where the API server is, and what to watch there.
#[derive(Clone, Debug, Default)]
pub struct ApiOptions {
    /// A kubeconfig file. Without one: the service account of the pod, or nobody in particular.
    pub kubeconfig: Option<PathBuf>,
    /// Addresses of API servers, in place of that of the kubeconfig or the pod's environment. The first one that
    /// answers is used.
    pub servers: Vec<String>,
    /// Name of this node: its Node object is watched.
    pub node_name: String,
    /// Serve what has this value of the label `service.kubernetes.io/service-proxy-name`; by default, what has no
    /// such label.
    pub proxy_name: Option<String>,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Before the first retry; doubled for each further one.
    first_retry: Duration,
    /// Before any retry, at most.
    last_retry: Duration,
    /// For the answer to a request.
    answer: Duration,
    /// For the next line of a watch. API servers send a bookmark about every minute
    /// (`bookmarkFrequency` in apiserver's `storage/cacher`).
    quiet: Duration,
    /// A watch that ends sooner than this, without an event, counts as failed.
    short: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_retry: Duration::from_millis(400),
            last_retry: Duration::from_secs(30),
            answer: Duration::from_secs(30),
            quiet: Duration::from_secs(100),
            short: Duration::from_secs(1),
        }
    }
}

/// The API server as a source of objects.
#[derive(Debug)]
pub struct ApiSource {
    servers: Arc<Servers>,
    options: ApiOptions,
    patience: Patience,
}

impl ApiSource {
    /// Reads the credentials. Whether an API server answers does not matter yet.
    ///
    /// # Errors
    /// When there is neither an address nor a way to find one, or the credentials cannot be used.
    pub async fn open(options: ApiOptions) -> Result<Self, ApiError> {
        let servers = Arc::new(Servers::open(&options).await?);
        Ok(Self { servers, options, patience: Patience::default() })
    }

    /// The addresses of the API servers, separated by commas.
    pub fn addresses(&self) -> String {
        self.servers.addresses()
    }

    /// Writes to the same API servers.
    pub fn poster(&self) -> Poster {
        Poster::new(self.servers.clone())
    }

    /// Registers what is measured of the requests.
    pub fn register(&self, registry: &mut Registry) {
        self.servers.stats().register(registry);
    }

    /// Sends every object of each kind, then `Listed` for it, then every change, until the receiver is gone.
    pub async fn run(self, events: EventSender) {
        let link = Arc::new(Link::new(
            self.servers.addresses(),
            self.servers.hint().map(str::to_owned),
            self.servers.stats().up.clone(),
        ));
        let reflectors = Kind::ALL.map(|kind| {
            Reflector::new(kind, &self.options, self.servers.clone(), link.clone(), self.patience, events.clone())
        });
        tokio::select! {
            _ = join_all(reflectors.into_iter().map(Reflector::run)) => {}
            () = events.closed() => {}
        }
    }
}
