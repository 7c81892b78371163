//! What all servers have in common.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// An address that cannot be bound to is tried again after this time, as kube-proxy does (`serveHealthz` in
/// `cmd/kube-proxy/app/server.go`).
const RETRY: Duration = Duration::from_secs(5);

/// A server that could not be started, and `bindAddressHardFail` says that the agent is to end for it.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve {what} on {address}: {source} (bindAddressHardFail)")]
pub struct ServeError {
    /// Which server.
    pub what: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// Serves for ever, trying again as long as the address cannot be bound to, or reports that and gives up if there is
/// somebody to report it to.
pub(super) async fn keep_serving(
    what: &'static str,
    address: SocketAddr,
    router: Router,
    hard_fail: Option<mpsc::UnboundedSender<ServeError>>,
) {
    let mut last = String::new();
    loop {
        let source = match listen(address).await {
            Ok(listener) => {
                tracing::info!("{what} at {address}");
                last.clear();
                axum::serve(listener, router.clone()).await.err()
            }
            Err(source) => Some(source),
        };
        if let Some(source) = source {
            let trouble = source.to_string();
            if let Some(sender) = &hard_fail {
                // The receiver is gone only when the agent ends anyway.
                let _ending = sender.send(ServeError { what, address, source });
                return;
            }
            if trouble != last {
                tracing::error!("cannot serve {what} on {address}: {trouble}; trying again");
                last = trouble;
            }
        }
        sleep(RETRY).await;
    }
}

/// Listens at an address. Those that stand for all of a family stand for both where the kernel has both, as with Go's `net.Listen`:
/// kube-proxy's default of 0.0.0.0 answers at the node's IPv6 addresses, too.
pub(super) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return TcpListener::bind(address).await;
    }
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port())).await {
        // A node without IPv6.
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    }
}

/// JSON with the headers of kube-proxy's health servers.
pub(super) fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json"), NO_SNIFF], body).into_response()
}

/// Plain text with the headers of kube-proxy's status server.
pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), NO_SNIFF], body.into()).into_response()
}

const NO_SNIFF: (HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");

/// A header of a number.
pub(super) fn number(number: usize) -> HeaderValue {
    HeaderValue::from(number)
}
