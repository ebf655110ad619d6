//! The routes of a listener, which are others while the host starts.

use std::sync::{Arc, OnceLock};

use axum::Router;

/// The routes of a listener: those of a starting host, and from a moment on those of a running one. Clones share them.
#[derive(Clone, Debug)]
pub struct Routes {
    first: Router,
    running: Arc<OnceLock<Router>>,
}

impl Routes {
    /// Routes that hold until [`Routes::open`].
    #[must_use]
    pub fn starting(first: Router) -> Self {
        Self { first, running: Arc::default() }
    }

    /// From now on these routes hold, also for connections that are open. Only the first call has an effect.
    pub fn open(&self, running: Router) {
        // An error says that they are open already.
        let _ = self.running.set(running);
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
