//! The state that the store's handle and its two threads share.

use std::{io, path::Path, sync::Arc, thread};

use crate::{
    counters::Counters,
    disk::Handle,
    error::{Error, Failure},
    journal::{segments::Segments, sequencer::Sequencer},
    room,
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
    pub(crate) held: Held,
    pub(crate) room: room::Seen,
}

/// What is synced again and again, kept open: a sync must not fail because no descriptor is left.
#[derive(Debug)]
pub(crate) struct Held {
    dir: Box<dyn Handle>,
    journal_dir: Box<dyn Handle>,
    base_dir: Box<dyn Handle>,
    pub(crate) state_file: Box<dyn Handle>,
}

impl Held {
    /// Opens them. All must exist.
    pub(crate) fn open(settings: &Settings, state_file: Box<dyn Handle>) -> Result<Self, Failure> {
        let open = |dir: &Path| settings.disk.open(dir).map_err(Failure::disk("open", dir));
        Ok(Self {
            dir: open(&settings.dir)?,
            journal_dir: open(&settings.journal_dir())?,
            base_dir: open(&settings.base_dir())?,
            state_file,
        })
    }
}

impl Shared {
    pub(crate) fn sync_journal_dir(&self) -> Result<(), Failure> {
        self.held.journal_dir.sync().map_err(Failure::disk("sync", self.settings.journal_dir()))
    }

    pub(crate) fn sync_base_dir(&self) -> Result<(), Failure> {
        self.held.base_dir.sync().map_err(Failure::disk("sync", self.settings.base_dir()))
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.progress.failure().is_some()
    }

    /// Fails the store: all waiters are woken, and nothing more is accepted. Returns the error for callers, which is
    /// that of the first failure.
    ///
    /// Damage makes the next start rebuild sled, but not if the store had failed before: after an operation that the system
    /// has refused, sled may panic, or show half of a change, without being damaged on disk. The next start looks for itself.
    pub(crate) fn fail(&self, failure: Failure) -> Error {
        let rebuild = failure.is_damage() && !self.has_failed();
        let error = Error::Failed(Arc::new(failure));
        if !self.has_failed() {
            tracing::error!(error = &error as &dyn std::error::Error, "the store has failed and stops");
        }
        if rebuild && let Err(failure) = self.mark_for_rebuild() {
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

    /// Makes the next start rebuild sled.
    fn mark_for_rebuild(&self) -> Result<(), Failure> {
        let marker = self.settings.rebuild_marker();
        match self.settings.disk.mark(&marker) {
            // Two threads may have found the same damage.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            outcome => outcome.map_err(Failure::disk("create", marker))?,
        }
        self.held.dir.sync().map_err(Failure::disk("sync", &self.settings.dir))
    }
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
