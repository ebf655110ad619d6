//! Where branches are: plugins by name or by the addresses they own, everything else over HTTP.

use std::{error::Error, sync::Arc};

use crate::{
    branch::{Branch, Directory, Nowhere, http},
    plugin::Registry,
    saga::{Definition, Slot},
};

/// The branches that this host can call.
pub struct Branches {
    plugins: Registry,
    http: http::Client,
}

impl Branches {
    /// Plugins first, then HTTP.
    pub fn new(plugins: Registry, http: http::Client) -> Self {
        Self { plugins, http }
    }
}

impl Directory for Branches {
    fn find(&self, saga: &Definition, slot: Slot) -> Result<Arc<dyn Branch>, Nowhere> {
        let target = saga.target(slot);
        match self.plugins.resolve(target, slot.op) {
            Ok(Some(plugin)) => Ok(plugin),
            Ok(None) => {
                let service = self.http.branch(target).map_err(|error| nowhere(&error))?;
                http::headers(&saga.options().branch_headers).map_err(|error| nowhere(&error))?;
                Ok(Arc::new(service))
            }
            Err(unresolved) => Err(nowhere(&unresolved)),
        }
    }
}

/// The whole chain of causes: what is refused at submission is all that the client learns.
fn nowhere(error: &dyn Error) -> Nowhere {
    let causes = std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string);
    Nowhere(causes.collect::<Vec<_>>().join(": "))
}
