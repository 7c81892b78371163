//! Where objects come from. Each source turns what it sees into [`crate::event::Event`]s and knows nothing of
//! what they are for.

pub mod manifests;
