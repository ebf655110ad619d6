//! The routes of a listener, which are others while the host starts.

use std::sync::{Arc, OnceLock};

use axum::Router;
use http::Request;

use crate::api::web::{Refusal, Rules};

/// The routes of a listener: those of a starting host, and from a moment on those of a running one. Clones share them.
#[derive(Clone, Debug)]
pub struct Routes {
    rules: Option<Rules>,
    first: Router,
    running: Arc<OnceLock<Router>>,
}

impl Routes {
    /// Routes that hold until [`Routes::open`]. They take requests of web pages like any others.
    #[must_use]
    pub fn starting(first: Router) -> Self {
        Self { rules: None, first, running: Arc::default() }
    }

    /// The same, for requests that these rules do not refuse.
    #[must_use]
    pub fn under(self, rules: Rules) -> Self {
        Self { rules: Some(rules), ..self }
    }

    /// From now on these routes hold, also for connections that are open. Only the first call has an effect.
    pub fn open(&self, running: Router) {
        // An error says that they are open already.
        let _ = self.running.set(running);
    }

    /// Why a request gets to no route.
    pub(super) fn refuse<B>(&self, request: &Request<B>) -> Option<Refusal> {
        self.rules.as_ref()?.refuse(request)
    }

    /// The routes that hold now.
    pub(super) fn current(&self) -> Router {
        self.running.get().unwrap_or(&self.first).clone()
    }
}

impl From<Router> for Routes {
    fn from(router: Router) -> Self {
        Self::starting(router)
    }
}
