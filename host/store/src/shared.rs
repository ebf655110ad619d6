//! The state that the store's handle and its two threads share.

use std::{io, sync::Arc, thread};

use crate::{
    counters::Counters,
    error::{Error, Failure},
    journal::{segments::Segments, sequencer::Sequencer},
    settings::Settings,
    state::{lag::Lag, view::View},
    ticket::Progress,
};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) progress: Arc<Progress>,
    pub(crate) sequencer: Sequencer,
    pub(crate) view: View,
    pub(crate) lag: Lag,
    pub(crate) segments: Segments,
    pub(crate) counters: Counters,
}

impl Shared {
    pub(crate) fn has_failed(&self) -> bool {
        self.progress.failure().is_some()
    }

    /// Fails the store: all waiters are woken, and nothing more is accepted. Returns the error for callers, which is
    /// that of the first failure.
    pub(crate) fn fail(&self, failure: Failure) -> Error {
        let rebuild = matches!(failure, Failure::State { .. } | Failure::Damaged(_));
        let error = Error::Failed(Arc::new(failure));
        if !self.has_failed() {
            tracing::error!(error = &error as &dyn std::error::Error, "the store has failed and stops");
        }
        if rebuild && let Err(failure) = mark_for_rebuild(&self.settings) {
            tracing::error!(
                error = &failure as &dyn std::error::Error,
                "cannot mark sled as damaged: remove its directory `state` before the next start, so that it is rebuilt"
            );
        }
        self.progress.fail(error);
        self.sequencer.wake();
        self.lag.wake();
        self.progress.failure().cloned().unwrap_or(Error::Closed)
    }
}

/// Makes the next start rebuild sled.
fn mark_for_rebuild(settings: &Settings) -> Result<(), Failure> {
    let marker = settings.rebuild_marker();
    if !marker.exists() {
        match settings.disk.create(&marker) {
            // Two threads may have found the same damage.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => drop(created.map_err(Failure::disk("create", &marker))?),
        }
        settings.sync_dir(&settings.dir)?;
    }
    Ok(())
}

/// Fails the store if its thread ends by a panic, so that no ticket waits for ever.
pub(crate) struct Watch {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: &'static str,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.fail(Failure::Thread(self.name));
        }
    }
}
