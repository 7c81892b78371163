//! The API over HTTP, for what kubectl is too slow for: through `kubectl proxy`, which does the rest.

use std::io::{BufRead, BufReader};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

/// Where `kubectl proxy` listens, in the control plane's namespace.
pub(super) const PROXY_PORT: u16 = 8001;

/// The administrator's access. Works in the control plane's namespace only.
#[derive(Clone, Debug)]
pub struct Api {
    agent: Agent,
}

impl Api {
    pub(super) fn new() -> Self {
        Self { agent: Agent::config_builder().http_status_as_error(false).build().into() }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Value> {
        read(path, self.agent.get(url(path)).call())
    }

    /// POST.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let request = self.agent.post(url(path)).header("Content-Type", "application/json");
        read(path, request.send(object.to_string()))
    }

    /// PATCH: these fields, the rest stays (RFC 7386).
    pub fn merge(&self, path: &str, fields: &Value) -> Result<Value> {
        let request = self.agent.patch(url(path)).header("Content-Type", "application/merge-patch+json");
        read(path, request.send(fields.to_string()))
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Result<Value> {
        read(path, self.agent.delete(url(path)).call())
    }

    /// The lines of a watch, without end.
    pub(super) fn watch(&self, path: &str) -> Result<impl BufRead + use<>> {
        let response = self.agent.get(url(path)).call().with_context(|| format!("watching {path}"))?;
        if !response.status().is_success() {
            bail!("watching {path}: {}", response.status());
        }
        Ok(BufReader::new(response.into_body().into_reader()))
    }
}

fn url(path: &str) -> String {
    format!("http://127.0.0.1:{PROXY_PORT}{path}")
}

fn read(path: &str, answer: Result<Response<Body>, ureq::Error>) -> Result<Value> {
    let mut answer = answer.with_context(|| format!("asking the API server for {path}"))?;
    let text = answer.body_mut().with_config().limit(1 << 30).read_to_string();
    let text = text.with_context(|| format!("reading {path}"))?;
    if !answer.status().is_success() {
        bail!("{path}: {} {text}", answer.status());
    }
    serde_json::from_str(&text).with_context(|| format!("{path}: not JSON: {text}"))
}
