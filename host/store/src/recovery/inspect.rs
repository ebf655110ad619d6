//! Phase 2, sled: opens it and checks what it holds.

use std::{
    fs::{self, TryLockError},
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Failure, OpenError, Unsupported},
    files,
    settings::Settings,
    state::sled::{META_VERSION, Meta, MetaRow, State},
};

/// How long a process that is ending may take to release sled's file.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(2);

/// What sled is good for.
#[derive(Debug)]
pub(super) enum Inspected {
    Sound(State, Meta),
    /// It holds nothing; `None`: there is no directory either.
    Blank(Option<State>),
    /// Why it cannot be used.
    Unsound(String),
}

/// Opens sled and checks what it holds. Refuses a sled that is in use, or that a newer version has written.
pub(super) fn inspect(settings: &Settings) -> Result<Inspected, OpenError> {
    let dir = settings.state_dir();
    if settings.rebuild_marker().exists() {
        return Ok(Inspected::Unsound("an earlier run has found it damaged".into()));
    }
    if !dir.exists() {
        return Ok(Inspected::Blank(None));
    }
    await_release(&files::state_file(&dir))?;
    let state = match State::open(&dir, settings.cache_bytes) {
        Ok(state) => state,
        Err(failure) => return unsound(failure),
    };
    match sound_meta(&state, settings) {
        Ok(MetaRow::Sound(meta)) => Ok(Inspected::Sound(state, meta)),
        Ok(MetaRow::Missing) => Ok(Inspected::Blank(Some(state))),
        Ok(MetaRow::Newer(version)) => {
            state.discard();
            let found = Unsupported::Format(version.into());
            Err(OpenError::Newer { file: dir, found, supported: META_VERSION.into() })
        }
        Err(failure) => {
            state.discard();
            unsound(failure)
        }
    }
}

/// Only what sled calls corrupted, a panic of it, or a digest that does not match is damage. What the system refuses is not.
fn unsound(failure: Failure) -> Result<Inspected, OpenError> {
    if failure.is_damage() { Ok(Inspected::Unsound(failure.to_string())) } else { Err(failure.into()) }
}

/// A lock that another process holds on sled's file must not be taken for damage. A process that is ending is waited
/// for.
fn await_release(file: &Path) -> Result<(), OpenError> {
    let deadline = Instant::now() + RELEASE_WAIT_MAX;
    let opened = match fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::disk("open", file)(error).into()),
    };
    loop {
        match opened.try_lock() {
            Ok(()) => return opened.unlock().map_err(|source| Failure::disk("unlock", file)(source).into()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { dir: file.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(Failure::disk("lock", file)(source).into()),
        }
    }
}

/// The meta row, if the rest agrees with it.
fn sound_meta(state: &State, settings: &Settings) -> Result<MetaRow, Failure> {
    let row = state.meta()?;
    match &row {
        MetaRow::Missing if !state.is_blank()? => return Err(Failure::Damaged("its meta row is missing".into())),
        MetaRow::Sound(meta) if settings.verify_on_open => state.verify(meta)?,
        _ => {}
    }
    Ok(row)
}
