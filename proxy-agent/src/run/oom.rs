//! `oomScoreAdj`.

use std::fs;

/// What kube-proxy asks for where nothing is said: a node without Services is of no use to anybody
/// (`qos.KubeProxyOOMScoreAdj`).
const USUAL: i64 = -999;

/// Writes the score. That a wish which nobody uttered cannot be fulfilled is no trouble.
pub(super) fn adjust(wanted: Option<i64>) {
    let score = wanted.unwrap_or(USUAL);
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Ok(()) => {}
        Err(error) if wanted.is_some() => {
            tracing::warn!("oomScoreAdj: cannot set it to {score}: {error}; CAP_SYS_RESOURCE is needed to lower it");
        }
        Err(error) => tracing::debug!("oomScoreAdj: cannot set it to {score}: {error}"),
    }
}
