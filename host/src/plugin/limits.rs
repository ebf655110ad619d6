//! What one attempt of a guest may use, and the meter that holds it to that.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

/// Everything that a guest could otherwise use without bound. CPU is shared, see
/// [`background`](super::background).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest time of one attempt, whatever a saga's `request_timeout` says: while an attempt waits (for an answer, a timer)
    /// it keeps its permit. What takes longer answers `ongoing`, and is asked again.
    #[serde(with = "duration")]
    pub attempt_timeout: Duration,
    /// Bytes of linear memory, all memories of an attempt together. 64 MiB holds the runtimes of interpreted languages;
    /// address space is reserved by it, real memory only as it is touched.
    pub memory_bytes: usize,
    /// Linear memories of one component. One is what languages use; two leaves room for a pair composed into one.
    pub memories: u32,
    /// Elements of one function table; 8 bytes each. Large interpreted runtimes have some 10,000.
    pub table_elements: usize,
    /// Tables of one component.
    pub tables: u32,
    /// Core instances of one component: its modules and the glue between them.
    pub instances: u32,
    /// Bytes of stack for the guest's own calls; the recursion limit.
    pub stack_bytes: usize,
    /// Bytes of one output. It is stored with the saga and handed to every later step.
    pub output_bytes: usize,
    /// Bytes of one rejection reason or error text; the rest is cut. They are stored and shown, so short is kind.
    pub text_bytes: usize,
    /// Bytes of standard output, standard error and `wasi:logging` together of one attempt, each line counted as 64
    /// more for what the log adds to it; the rest is dropped, with a note. Bounds what a guest can write into the host's log.
    pub log_bytes: usize,
    /// Bytes of one log line; the rest of the line is cut.
    pub log_line_bytes: usize,
    /// Bytes that a guest may hand to the host, or ask of it, in one call; the host holds them in memory meanwhile.
    pub hostcall_bytes: usize,
    /// Handles (streams, timers, buckets) open at once.
    pub handles: usize,
    /// Requests that one attempt makes by `wasi:http`, refused ones included.
    pub http_requests: u32,
    /// Requests of one attempt that are under way at once, until their answer is read; further ones wait.
    pub http_at_once: u32,
    /// Bytes of the body of one request.
    pub http_request_bytes: u64,
    /// Bytes of the body of one answer. The host holds little of it: a guest reads it piece by piece.
    pub http_response_bytes: u64,
    /// How long a request waits for a connection, its name's addresses and TLS included. Of this and the next two a
    /// guest may only ask for less.
    #[serde(with = "duration")]
    pub http_connect_timeout: Duration,
    /// How long it then waits for the head of an answer. The attempt's own time-out ends it earlier if shorter.
    #[serde(with = "duration")]
    pub http_first_byte_timeout: Duration,
    /// How long a guest waits for the next piece of an answer's body.
    #[serde(with = "duration")]
    pub http_between_bytes_timeout: Duration,
    /// Bytes of one key of `wasi:keyvalue`. The store copies parts of keys into its index, so short is fast; with the
    /// names of plugin and bucket, 1024 bytes are all it takes.
    pub kv_key_bytes: usize,
    /// Bytes of one value. Larger things belong into an object store, with their address here.
    pub kv_value_bytes: usize,
    /// Bytes of keys and values that one attempt changes. They are written to the journal in one piece, which all
    /// other commits wait for.
    pub kv_write_bytes: usize,
    /// Bytes of keys and values that one attempt reads, however often; the last read may exceed it. The host keeps
    /// them until the attempt ends, and compares them when it is committed.
    pub kv_read_bytes: usize,
    /// Keys that one attempt reads, writes and lists, however often. What was read and listed is looked up again when
    /// the attempt is committed.
    pub kv_operations: usize,
    /// Bytes of a component file. Compiling takes time and memory in proportion: some 20 s of CPU for 15 MB.
    pub component_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_mins(5),
            memory_bytes: 64 << 20,
            memories: 2,
            table_elements: 20_000,
            tables: 8,
            instances: 64,
            stack_bytes: 512 << 10,
            output_bytes: 64 << 10,
            text_bytes: 4 << 10,
            log_bytes: 64 << 10,
            log_line_bytes: 4 << 10,
            hostcall_bytes: 8 << 20,
            handles: 1024,
            http_requests: 32,
            http_at_once: 8,
            http_request_bytes: 8 << 20,
            http_response_bytes: 8 << 20,
            http_connect_timeout: Duration::from_secs(3),
            http_first_byte_timeout: Duration::from_secs(30),
            http_between_bytes_timeout: Duration::from_secs(10),
            kv_key_bytes: 512,
            kv_value_bytes: 256 << 10,
            kv_write_bytes: 1 << 20,
            kv_read_bytes: 8 << 20,
            kv_operations: 10_000,
            component_bytes: 64 << 20,
        }
    }
}

/// Counts the memory of one attempt, denies what is over the limit, and remembers that it did: the guest then ends
/// itself in its language's own way, which names no limit.
pub struct Meter {
    memory_bytes_max: usize,
    memory_bytes: usize,
    table_elements_max: usize,
    instances_max: usize,
    memories_max: usize,
    tables_max: usize,
    denied: Option<Denied>,
}

/// What a guest was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// More memory.
    Memory,
    /// A larger table.
    Table,
}

impl Meter {
    /// A meter at zero.
    pub fn new(limits: &Limits) -> Self {
        Self {
            memory_bytes_max: limits.memory_bytes,
            memory_bytes: 0,
            table_elements_max: limits.table_elements,
            instances_max: limits.instances as usize,
            memories_max: limits.memories as usize,
            tables_max: limits.tables as usize,
            denied: None,
        }
    }

    /// What was denied last, if anything.
    pub fn denied(&self) -> Option<Denied> {
        self.denied
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if total > self.memory_bytes_max {
            self.denied = Some(Denied::Memory);
            return Ok(false);
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= self.table_elements_max;
        if !fits {
            self.denied = Some(Denied::Table);
        }
        Ok(fits)
    }

    fn instances(&self) -> usize {
        self.instances_max
    }

    fn memories(&self) -> usize {
        self.memories_max
    }

    fn tables(&self) -> usize {
        self.tables_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_over_all_memories_of_an_attempt() {
        let mut meter = Meter::new(&Limits { memory_bytes: 100, ..Limits::default() });
        assert!(meter.memory_growing(0, 60, None).unwrap());
        assert!(meter.memory_growing(0, 40, None).unwrap());
        assert_eq!(meter.denied(), None);
        assert!(!meter.memory_growing(40, 41, None).unwrap());
        assert_eq!(meter.denied(), Some(Denied::Memory));
    }

    #[test]
    fn tables_are_limited_each() {
        let mut meter = Meter::new(&Limits { table_elements: 10, ..Limits::default() });
        assert!(meter.table_growing(0, 10, None).unwrap());
        assert!(!meter.table_growing(10, 11, None).unwrap());
        assert_eq!(meter.denied(), Some(Denied::Table));
    }
}
