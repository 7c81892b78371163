//! `/healthz` and `/livez` (port 10256): for load balancers and the kubelet.

use std::sync::Arc;

use axum::Router;
use axum::extract;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::any;

use super::http;
use super::state::State;

/// The routes, for any method as kube-proxy has them.
pub(super) fn router(state: Arc<State>) -> Router {
    Router::new().route("/healthz", any(healthz)).route("/livez", any(livez)).with_state(state)
}

/// Whether load balancers are to send clients to this node.
async fn healthz(extract::State(state): extract::State<Arc<State>>) -> Response {
    let report = state.healthz();
    let status = status(report.healthy && report.node_eligible != Some(false));
    state.metrics().answered_healthz(status.as_u16());
    http::json(status, serde_json::to_string(&report).unwrap_or_default())
}

/// Whether the agent is to go on, wherever its node is going.
async fn livez(extract::State(state): extract::State<Arc<State>>) -> Response {
    let report = state.livez();
    let status = status(report.healthy);
    state.metrics().answered_livez(status.as_u16());
    http::json(status, serde_json::to_string(&report).unwrap_or_default())
}

fn status(is_well: bool) -> StatusCode {
    if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
