//! Where branches are: plugins by name or by the addresses they own, everything else over HTTP or gRPC.

use std::{borrow::Cow, error::Error, sync::Arc};

use crate::{
    branch::{Branch, Directory, Nowhere, grpc, http},
    plugin::Registry,
    saga::{Definition, Pin, Pins, Slot},
};

/// The branches that this host can call.
pub struct Branches {
    plugins: Arc<Registry>,
    http: http::Client,
    grpc: grpc::Client,
}

impl Branches {
    /// Plugins first, then services.
    pub fn new(plugins: Arc<Registry>, http: http::Client, grpc: grpc::Client) -> Self {
        Self { plugins, http, grpc }
    }

    fn service(&self, saga: &Definition, target: &str) -> Result<Arc<dyn Branch>, Nowhere> {
        let options = saga.options();
        if grpc::is_meant(&options.protocol, target) {
            grpc::metadata(saga.gid(), &options.branch_headers).map_err(|error| nowhere(&error))?;
            return Ok(Arc::new(self.grpc.branch(target).map_err(|error| nowhere(&error))?));
        }
        http::headers(&options.branch_headers).map_err(|error| nowhere(&error))?;
        Ok(Arc::new(self.http.branch(target).map_err(|error| nowhere(&error))?))
    }
}

impl Directory for Branches {
    fn find(&self, saga: &Definition, slot: Slot, pin: Option<&Pin>) -> Result<Arc<dyn Branch>, Nowhere> {
        match pin {
            Some(pin) => self.plugins.find(pin, slot.op).map_err(|lost| nowhere(&lost)),
            None => self.service(saga, saga.target(slot)),
        }
    }

    fn pin(&self, saga: &Definition, slots: &[Slot]) -> Result<Pins, (Slot, Nowhere)> {
        let targets = slots.iter().map(|slot| (*slot, saga.target(*slot)));
        let pins = self.plugins.pin_all(targets).map_err(|(slot, unresolved)| (slot, nowhere(&unresolved)))?;
        let check = |slot: Slot| match pins.get(slot) {
            None => self.service(saga, saga.target(slot)).map(drop),
            Some(_) => match saga.steps().get(slot.step).map(|step| str::from_utf8(&step.payload)) {
                Some(Err(_)) => Err(Nowhere("the payload is not UTF-8 text, which is all that a plugin takes".into())),
                _ => Ok(()),
            },
        };
        let checked = slots.iter().try_for_each(|slot| check(*slot).map_err(|nowhere| (*slot, nowhere)));
        checked.inspect_err(|_| self.plugins.release(pins.components()))?;
        Ok(pins)
    }

    fn hold(&self, pins: &[Pin]) {
        self.plugins.hold(pins);
    }

    fn release(&self, pins: &[Pin]) {
        self.plugins.release(pins);
    }

    fn shown<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        self.plugins.shown(data)
    }
}

/// The whole chain of causes: what is refused at submission is all that the client learns.
fn nowhere(error: &dyn Error) -> Nowhere {
    let causes = std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string);
    Nowhere(causes.collect::<Vec<_>>().join(": "))
}
