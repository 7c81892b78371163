//! Writing to the API server. Events are all that is ever written.

use std::sync::Arc;
use std::time::Duration;

use super::servers::{Failure, Servers};

/// Longest time to the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Creates objects.
#[derive(Clone, Debug)]
pub struct Poster(Arc<Servers>);

/// Why an object could not be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostError {
    /// Why.
    pub message: String,
    /// Trying again is of no use.
    pub is_final: bool,
}

impl Poster {
    pub(super) fn new(servers: Arc<Servers>) -> Self {
        Self(servers)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// When no API server answers, or it refuses.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Result<(), PostError> {
        self.0.create(path, body, PATIENCE).await.map_err(|failure| match failure {
            Failure::NoAnswer(message) => PostError { message, is_final: false },
            Failure::Refused(code, message) => PostError { message: format!("{code} {message}"), is_final: true },
            Failure::Expired => PostError { message: "gone".to_owned(), is_final: true },
        })
    }
}
