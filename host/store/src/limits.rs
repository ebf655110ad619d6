//! Fixed limits.

/// Longest key, in bytes. Keys are ids and index entries; sled copies parts of them into its inner nodes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Most entries that one scan may return. A scan holds commits back while it runs, so that it is a snapshot; longer
/// ranges are read in pages.
pub const SCAN_ENTRIES_MAX: usize = 4096;

/// Longest record, in bytes of its batch. The limit of a batch is a setting, which cannot go beyond this one.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 256 << 20;
