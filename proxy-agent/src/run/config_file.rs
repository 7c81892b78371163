//! Noticing that the configuration file has changed. As with kube-proxy the agent then ends, so that whatever runs it
//! starts it anew; unlike with kube-proxy not for a file that cannot be used, which would keep it from starting.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use crate::config::{KubeProxyFlags, Settings};

/// The file is read so often. A mounted ConfigMap changes by a symbolic link somewhere above it, so there is no one
/// thing to watch.
const PERIOD: Duration = Duration::from_secs(2);

/// Returns the path when the file comes to other settings than those in use. Never, without a file.
pub(super) async fn changed(path: Option<PathBuf>, flags: KubeProxyFlags, in_use: &Settings) -> PathBuf {
    let Some(path) = path else { return std::future::pending().await };
    let mut trouble = None;
    loop {
        sleep(PERIOD).await;
        if is_other(&path, &flags, in_use, &mut trouble) {
            return path;
        }
    }
}

/// Whether the file can be used and comes to something else. What is wrong with it is said once.
fn is_other(path: &Path, flags: &KubeProxyFlags, in_use: &Settings, trouble: &mut Option<String>) -> bool {
    match Settings::load(Some(path), flags) {
        Ok(settings) => {
            *trouble = None;
            settings != *in_use
        }
        Err(error) => {
            let message = error.to_string();
            if trouble.as_ref() != Some(&message) {
                tracing::error!("{message}; the settings that the agent was started with go on");
                *trouble = Some(message);
            }
            false
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn only_other_settings_that_can_be_used_count() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |rest: &str| {
            let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration";
            std::fs::write(file.path(), format!("{head}\n{rest}\n")).unwrap();
        };
        let flags = KubeProxyFlags::default();
        write("clusterCIDR: 10.244.0.0/16");
        let in_use = Settings::load(Some(file.path()), &flags).unwrap();
        let mut trouble = None;
        let mut is_other = || is_other(file.path(), &flags, &in_use, &mut trouble);
        assert!(!is_other());
        write("clusterCIDR: 10.244.0.0/16 # the same");
        assert!(!is_other());
        write("clusterCIDR: 10.244.0.0");
        assert!(!is_other());
        write("clusterCIDR: 10.245.0.0/16");
        assert!(is_other());
    }
}
