//! `/metrics`, `/proxyMode`, `/configz` and `/healthz` (port 10249): for monitoring and for people.

use std::sync::Arc;

use axum::Router;
use axum::extract;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};

use super::http;
use super::metrics::text::Format;
use super::state::State;

/// What `/proxyMode` says. kube-proxy says iptables, ipvs or nftables there.
const PROXY_MODE: &str = "ebpf";

/// The routes.
pub(super) fn router(state: Arc<State>) -> Router {
    // The status server's own health, which asks nothing (apiserver's `healthz.InstallHandler` with its one check).
    let well = || async { http::text(StatusCode::OK, "ok") };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/configz", any(configz))
        .route("/proxyMode", any(|| async { http::text(StatusCode::OK, PROXY_MODE) }))
        .route("/healthz", get(well))
        .route("/healthz/ping", get(well))
        .with_state(state)
}

async fn metrics(extract::State(state): extract::State<Arc<State>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::asked_for(accept);
    match format.encode(state.registry()) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => http::text(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics cannot be written: {error}")),
    }
}

async fn configz(extract::State(state): extract::State<Arc<State>>) -> Response {
    http::json(StatusCode::OK, state.configz().to_string())
}
