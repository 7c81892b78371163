//! What the events of a round are counted as.

use super::Owner;
use crate::event::Event;
use crate::object::{EndpointSlice, Object, ObjectName, ObjectRef, Trigger};

/// What an event is about, as far as it is counted.
pub(super) enum Seen {
    Service,
    /// With the Service that it is of.
    Slice(Option<ObjectName>, Trigger),
    /// With the Service that it was of.
    SliceGone(Option<ObjectName>),
    Other,
}

impl Owner {
    /// What an event is to be counted as, if it turns out to change anything.
    pub(super) fn describe(&self, event: &Event) -> Seen {
        match event {
            Event::Apply(object) => match object.as_ref() {
                Object::Service(_) => Seen::Service,
                Object::EndpointSlice(slice) => Seen::Slice(slice.service_name(), slice.trigger),
                Object::Node(_) | Object::ServiceCidr(_) => Seen::Other,
            },
            Event::Delete(ObjectRef::Service(_)) => Seen::Service,
            Event::Delete(ObjectRef::EndpointSlice(name)) => {
                Seen::SliceGone(self.store.slice(name).and_then(EndpointSlice::service_name))
            }
            Event::Delete(ObjectRef::Node(_) | ObjectRef::ServiceCidr(_))
            | Event::Listed { .. }
            | Event::Problem(_)
            | Event::Mended(_) => Seen::Other,
        }
    }

    pub(super) fn count(&mut self, seen: Seen) {
        match seen {
            Seen::Service => self.state.metrics().service_changed(),
            Seen::Slice(service, trigger) => {
                self.state.metrics().endpoints_changed();
                if let Some(service) = service {
                    self.triggers.changed(service, trigger);
                }
            }
            Seen::SliceGone(service) => {
                self.state.metrics().endpoints_changed();
                if let Some(service) = service {
                    self.triggers.deleted(&service);
                }
            }
            Seen::Other => {}
        }
    }
}
