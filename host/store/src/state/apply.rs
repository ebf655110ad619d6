//! Applying records and bases to sled: by the follower while the store runs, and by recovery before that.

use std::mem;

use bytes::Bytes;

use crate::{
    codec,
    disk::Handle,
    error::Failure,
    files,
    journal::sequencer::Accepted,
    settings::Settings,
    state::sled::{Change, Meta, State},
};

/// Most keys and bytes of one sled batch. sled's readers are blocked while it applies one, 5 to 10 us a key; with fewer
/// keys, the meta row and the bookkeeping of each batch would cost a noticeable share.
const BATCH_KEYS: usize = 128;
const BATCH_BYTES: usize = 1 << 20;

/// Applies one round of records to sled. `done` is called after each sled batch.
///
/// A round may take several sled batches; a crash between them leaves a state in which some records after `applied`
/// have already had their effect, up to `reached`. Applying them again changes nothing: puts and deletes are absolute.
pub(crate) fn apply(
    state: &State,
    meta: &mut Meta,
    records: &[Accepted],
    mut done: impl FnMut(&[Latest], &[Change]),
) -> Result<(), Failure> {
    let Some(last) = records.last().map(|record| record.seq) else { return Ok(()) };
    let latest = coalesce(records);
    meta.reached = meta.reached.max(last);
    let mut rest = latest.as_slice();
    loop {
        let (batch, later) = rest.split_at(batch_len(rest));
        if later.is_empty() {
            meta.applied = last;
        }
        let changes = state.apply(batch.iter().map(|(key, value)| (&key[..], value.as_deref())), meta)?;
        done(batch, &changes);
        if later.is_empty() {
            return Ok(());
        }
        rest = later;
    }
}

/// Applies one record of a base to sled.
pub(crate) fn load(state: &State, meta: &mut Meta, writes: codec::Writes<'_>) -> Result<(), Failure> {
    let writes: Vec<_> = writes.map(|write| (write.key, write.value)).collect();
    writes.chunks(BATCH_KEYS).try_for_each(|batch| state.apply(batch.iter().copied(), meta).map(drop))
}

/// A key and its value after its last write; `None`: deleted.
pub(crate) type Latest = (Bytes, Option<Bytes>);

/// The last write of each key, least key first: sled writes neighbouring keys fastest.
fn coalesce(records: &[Accepted]) -> Vec<Latest> {
    let mut latest: Vec<Latest> = Vec::with_capacity(records.len());
    for Accepted { encoded, .. } in records {
        latest.extend(
            codec::decode(encoded)
                .map(|write| (encoded.slice_ref(write.key), write.value.map(|value| encoded.slice_ref(value)))),
        );
    }
    // Stable, so that of equal keys the last write stays last.
    latest.sort_by(|(left, _), (right, _)| left.cmp(right));
    latest.dedup_by(|later, earlier| {
        let is_same = later.0 == earlier.0;
        if is_same {
            mem::swap(later, earlier);
        }
        is_same
    });
    latest
}

/// How many writes the next sled batch takes.
fn batch_len(writes: &[Latest]) -> usize {
    let mut bytes = 0;
    for (count, (key, value)) in writes.iter().enumerate().take(BATCH_KEYS) {
        if bytes >= BATCH_BYTES {
            return count;
        }
        bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
    }
    writes.len().min(BATCH_KEYS)
}

/// Makes sled's content durable. Its own `flush` only hands the bytes to the kernel. `file` is sled's file, held open: to
/// open it anew could fail for want of a descriptor.
pub(crate) fn checkpoint(state: &State, file: &dyn Handle, settings: &Settings) -> Result<(), Failure> {
    state.flush()?;
    file.sync().map_err(Failure::disk("sync", files::state_file(&settings.state_dir())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::sled::MetaRow;

    #[test]
    fn a_round_is_claimed_only_by_its_last_batch() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), 1 << 20).unwrap();
        let record = |seq: u64| {
            let mut encoded = Vec::new();
            codec::encode(&mut encoded, &seq.to_be_bytes(), Some(b"v"));
            Accepted { seq, encoded: encoded.into() }
        };
        let records: Vec<_> = (1..=2 * BATCH_KEYS as u64 + 1).map(record).collect();
        let last = records.len() as u64;
        let mut claims = Vec::new();
        let mut meta = Meta::default();
        apply(&state, &mut meta, &records, |_, _| {
            let MetaRow::Sound(meta) = state.meta().unwrap() else { panic!("no meta row") };
            claims.push((meta.applied, meta.reached, meta.sum.count));
        })
        .unwrap();
        // A crash between the batches must not make anyone believe that the round is there.
        assert_eq!(claims, [(0, last, 128), (0, last, 256), (last, last, last)]);
        state.verify(&meta).unwrap();
    }
}
