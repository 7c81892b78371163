//! What a source of objects tells the owner of the state.

use std::collections::BTreeSet;

use tokio::sync::mpsc;

use crate::object::{Kind, Object, ObjectRef, Problem};

/// One piece of news from a source: the API server, or a folder of manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The object exists and looks like this.
    Apply(Box<Object>),
    /// The object no longer exists.
    Delete(ObjectRef),
    /// A full list of this kind has come to its end: what is not in it no longer exists. Sent after the `Apply` of
    /// each object in it, once at the start and again whenever a source had to begin anew.
    Listed {
        /// The kind.
        kind: Kind,
        /// Every object of this kind.
        objects: BTreeSet<ObjectRef>,
    },
    /// Something is wrong with an object or with the source; what was known before stays. Sent once when it
    /// appears, and again only if it was mended in between.
    Problem(Problem),
    /// A problem that was told of is over.
    Mended(Problem),
}

/// Where sources send their news. What comes in one message belongs together and is planned together.
pub type EventSender = mpsc::Sender<Vec<Event>>;
/// Where the owner of the state receives it.
pub type EventReceiver = mpsc::Receiver<Vec<Event>>;
