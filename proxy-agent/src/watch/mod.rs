//! Where objects come from. Each source turns what it sees into [`crate::event::Event`]s and knows nothing of
//! what they are for.

pub mod api;
pub mod manifests;

use api::{ApiError, ApiOptions, ApiSource, Poster};
use manifests::{Manifests, ManifestsError};

use prometheus_client::registry::Registry;

use crate::event::EventSender;

/// The one source of an agent.
#[derive(Debug)]
pub enum Source {
    /// A folder.
    Manifests(Manifests),
    /// A cluster.
    Api(ApiSource),
}

/// Why a source cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder cannot be read.
    #[error(transparent)]
    Manifests(#[from] ManifestsError),
    /// The API server cannot be used.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Source {
    /// Opens the folder, if there is one; else the API server.
    ///
    /// # Errors
    /// When the folder cannot be read, or there are no usable credentials or addresses.
    pub async fn open(folder: Option<&std::path::Path>, options: ApiOptions) -> Result<Self, SourceError> {
        Ok(match folder {
            Some(folder) => Self::Manifests(Manifests::open(folder)?),
            None => Self::Api(ApiSource::open(options).await?),
        })
    }

    /// What writes Events where the objects come from; `None` for a folder.
    pub fn poster(&self) -> Option<Poster> {
        match self {
            Self::Manifests(_) => None,
            Self::Api(api) => Some(api.poster()),
        }
    }

    /// Registers what is measured of the source.
    pub fn register(&self, registry: &mut Registry) {
        match self {
            Self::Manifests(_) => {}
            Self::Api(api) => api.register(registry),
        }
    }

    /// Sends events until the receiver is gone.
    pub async fn run(self, events: EventSender) {
        match self {
            Self::Manifests(manifests) => manifests.run(events).await,
            Self::Api(api) => api.run(events).await,
        }
    }
}
