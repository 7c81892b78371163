//! The API servers: how to reach one, and which one is in use.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::io::AsyncBufRead;
use kube::api::{ListParams, PostParams, WatchParams};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::request::Request;
use kube::{Client, Config};
use tokio::time::{Instant, timeout};

use super::ApiOptions;
use super::stats::Stats;
use crate::output::chain;

/// Longest time to set up a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Why the API server cannot be used as a source.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nothing says where it is.
    #[error(
        "no source of Services: give --kubeconfig FILE, --api-servers URL,… or --manifests DIR, or run in a pod with \
         a service account"
    )]
    NoSource,
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// The pod's service account cannot be used.
    #[error("cannot use the service account of this pod")]
    InCluster(#[source] InClusterError),
    /// An address that is none.
    #[error("--api-servers: '{0}' is not an address of an API server: expected https://HOST:PORT")]
    Address(String),
    /// No client can be made, usually because of the certificates.
    #[error("cannot make a client for {server}")]
    Client {
        /// The server.
        server: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No server did what it was asked: not reached, not in time, or out of order itself (429 and from 500 on).
    NoAnswer(String),
    /// The request itself is refused.
    Refused(u16, String),
    /// The resourceVersion or the continuation of a list is too old (410): list again.
    Expired,
}

/// API servers that are one as good as the other.
pub(super) struct Servers {
    servers: Vec<(String, Client)>,
    /// Which of them is used. It is stayed with while it works.
    active: AtomicUsize,
    hint: Option<&'static str>,
    stats: Stats,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Servers").field(&self.addresses()).finish()
    }
}

impl Servers {
    pub(super) async fn open(options: &ApiOptions) -> Result<Self, ApiError> {
        let mut hint = None;
        let base = match &options.kubeconfig {
            Some(path) => {
                let unusable = |source| ApiError::Kubeconfig { path: path.clone(), source: Box::new(source) };
                let file = Kubeconfig::read_from(path).map_err(unusable)?;
                Some(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(unusable)?)
            }
            None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => {
                if options.servers.is_empty() {
                    hint = Some(
                        " (the address is that of the pod's environment, usually a ClusterIP, which only works once \
                         Services do: give --api-servers)",
                    );
                }
                Some(Config::incluster().map_err(ApiError::InCluster)?)
            }
            None => None,
        };
        let mut configs = Vec::new();
        for text in &options.servers {
            let address = text.parse().map_err(|_| ApiError::Address(text.clone()))?;
            let mut config = base.clone().unwrap_or_else(|| Config::new(address));
            config.cluster_url = text.parse().map_err(|_| ApiError::Address(text.clone()))?;
            if !matches!(config.cluster_url.scheme_str(), Some("http" | "https")) || config.cluster_url.host().is_none()
            {
                return Err(ApiError::Address(text.clone()));
            }
            configs.push(config);
        }
        if configs.is_empty() {
            configs.push(base.ok_or(ApiError::NoSource)?);
        }
        let mut servers = Vec::new();
        for mut config in configs {
            let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
            config.connect_timeout = Some(CONNECT);
            // Retries are the reflector's, with its own delays.
            config.default_retry = false;
            let client = Client::try_from(config)
                .map_err(|source| ApiError::Client { server: server.clone(), source: Box::new(source) })?;
            servers.push((server, client));
        }
        Ok(Self { servers, active: AtomicUsize::new(0), hint, stats: Stats::default() })
    }

    /// Their addresses, separated by commas.
    pub(super) fn addresses(&self) -> String {
        self.servers.iter().map(|(address, _)| address.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// What to add where no server is reached.
    pub(super) fn hint(&self) -> Option<&str> {
        self.hint
    }

    /// What is measured of the requests.
    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Creates an object from its JSON.
    pub(super) async fn create(&self, path: &str, body: Vec<u8>, patience: Duration) -> Result<(), Failure> {
        let mut last = Failure::Expired;
        for _ in &self.servers {
            let (index, client) = self.active();
            let request = Request::new(path)
                .create(&PostParams::default(), body.clone())
                .map_err(|error| Failure::Refused(0, error.to_string()))?;
            let began = Instant::now();
            let answer = timeout(patience, client.request_text(request)).await;
            match self.judge(index, "POST", began, answer) {
                Ok(_created) => return Ok(()),
                Err(failure @ Failure::NoAnswer(_)) => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    /// A page of a list, as text.
    pub(super) async fn list(&self, path: &str, params: &ListParams, patience: Duration) -> Result<String, Failure> {
        let mut last = Failure::Expired;
        for _ in &self.servers {
            let (index, client) = self.active();
            let request = Request::new(path).list(params).map_err(|error| Failure::Refused(0, error.to_string()))?;
            let began = Instant::now();
            let answer = timeout(patience, client.request_text(request)).await;
            match self.judge(index, "GET", began, answer) {
                Ok(text) => return Ok(text),
                Err(failure @ Failure::NoAnswer(_)) => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    /// Begins a watch. Returns its lines, and the server that sends them.
    pub(super) async fn watch(
        &self,
        path: &str,
        params: &WatchParams,
        version: &str,
        patience: Duration,
    ) -> Result<(impl AsyncBufRead + use<>, usize), Failure> {
        let mut last = Failure::Expired;
        for _ in &self.servers {
            let (index, client) = self.active();
            let request =
                Request::new(path).watch(params, version).map_err(|error| Failure::Refused(0, error.to_string()))?;
            let began = Instant::now();
            let answer = timeout(patience, client.request_stream(request)).await;
            match self.judge(index, "GET", began, answer) {
                Ok(stream) => return Ok((stream, index)),
                Err(failure @ Failure::NoAnswer(_)) => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    /// Leaves a server that broke off. Whoever comes second finds that already done.
    pub(super) fn leave(&self, index: usize) {
        let next = (index + 1) % self.servers.len().max(1);
        let _already_left = self.active.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn active(&self) -> (usize, Client) {
        let index = self.active.load(Ordering::Relaxed);
        // There is at least one, and the index is always that of one.
        let (_, client) = &self.servers[index];
        (index, client.clone())
    }

    fn judge<T>(
        &self,
        index: usize,
        method: &'static str,
        began: Instant,
        answer: Result<kube::Result<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, Failure> {
        let code = match &answer {
            Ok(Ok(_)) if method == "POST" => Some(201),
            Ok(Ok(_)) => Some(200),
            Ok(Err(kube::Error::Api(status))) => Some(status.code),
            Ok(Err(_)) | Err(_) => None,
        };
        let host = self.servers.get(index).map_or("", |(address, _)| host(address));
        self.stats.answered(host, method, code, began.elapsed());
        let failure = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(kube::Error::Api(status))) => match status.code {
                410 => Failure::Expired,
                429 | 500.. => Failure::NoAnswer(format!("{} {}", status.code, status.message)),
                code => Failure::Refused(code, status.message.clone()),
            },
            Ok(Err(error)) => Failure::NoAnswer(cause(&error)),
            Err(_) => Failure::NoAnswer("no answer in time".to_owned()),
        };
        if matches!(failure, Failure::NoAnswer(_)) {
            self.leave(index);
        }
        Err(failure)
    }
}

/// Host and port of an address, as client-go names a server in its metrics.
fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// The innermost cause, which is the one that says something ("connection refused").
fn cause(error: &kube::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    chain(innermost).to_string()
}
