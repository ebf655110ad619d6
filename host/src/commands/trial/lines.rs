//! Collects the lines that a guest writes, to print them below the call that wrote them.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer, filter::Targets, layer::Context, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::store::sync::lock;

/// Where guests' lines come from; all that they say counts here. Of the host itself only warnings do.
const GUESTS: &str = crate::plugin::GUEST_LOG_TARGET;

/// Collected lines. Clones share them.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Begins to collect what this process logs.
    pub fn listen(&self) {
        let kinds = Targets::new().with_target(GUESTS, LevelFilter::TRACE).with_target("wasaga", LevelFilter::WARN);
        // An error says that another subscriber is installed, which then shows the lines.
        let _ = tracing_subscriber::registry().with(kinds).with(self.clone()).try_init();
    }

    /// Adds a line.
    pub fn push(&self, line: String) {
        self.lock().push(line);
    }

    /// Removes and returns all lines.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        lock(&self.0)
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level: &Level = event.metadata().level();
        let context = if line.context.is_empty() { "" } else { ": " };
        self.push(format!("{:5} {}{context}{}", level.as_str(), line.context, line.message));
    }
}

/// The parts of a log event that are printed.
#[derive(Default)]
struct Line {
    message: String,
    context: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "context" {
            value.clone_into(&mut self.context);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}
