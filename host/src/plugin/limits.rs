//! Limits of one attempt of a guest, and the meter that enforces those of its memory and tables.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

use crate::{
    memory::{self, Reserved},
    store::sync::lock,
};

/// Limits of everything that a guest could otherwise use without bound. CPU time has no limit but is shared: see
/// [`scheduler`](super::sandbox::scheduler).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest time of one attempt, also if a saga's `request_timeout` is longer: an attempt keeps its permit while it waits
    /// for an answer or a timer. A guest that needs longer answers `ongoing` and is called again.
    #[serde(with = "duration")]
    pub attempt_timeout: Duration,
    /// Bytes of linear memory, all memories of an attempt together, and of the headers of its HTTP requests. 64 MiB holds the runtimes of interpreted languages;
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
    /// Bytes of one rejection reason or error text; the rest is cut. They are stored with the saga and shown to people.
    pub text_bytes: usize,
    /// Bytes of standard output, standard error and `wasi:logging` together of one attempt, each line counted as 64
    /// more for what the log adds to it; the rest is dropped, with a note. Bounds what a guest can write into the host's log.
    pub log_bytes: usize,
    /// Bytes of one log line; the rest of the line is cut.
    pub log_line_bytes: usize,
    /// Bytes that a guest may pass to the host, or ask of it, in one call; the host holds them in memory during the call.
    pub hostcall_bytes: usize,
    /// Handles (streams, timers, buckets) open at once.
    pub handles: usize,
    /// Requests that one attempt makes by `wasi:http`, refused ones included.
    pub http_requests: u32,
    /// Concurrent requests of one attempt, each until its answer is read; further ones wait.
    pub http_at_once: u32,
    /// Bytes of the body of one request.
    pub http_request_bytes: u64,
    /// Bytes of the body of one answer. The host holds only the piece that the guest reads next.
    pub http_response_bytes: u64,
    /// How long a request waits for a connection, name resolution and TLS included. A guest can lower this limit and the
    /// next two for a request, but not raise them.
    #[serde(with = "duration")]
    pub http_connect_timeout: Duration,
    /// How long it then waits for the head of the answer. The attempt's own time-out ends the request earlier if shorter.
    #[serde(with = "duration")]
    pub http_first_byte_timeout: Duration,
    /// How long a guest waits for the next piece of an answer's body.
    #[serde(with = "duration")]
    pub http_between_bytes_timeout: Duration,
    /// Bytes of one key of `wasi:keyvalue`. The store copies parts of keys into its index, so short keys are faster. Names
    /// of plugin and bucket included, the store accepts 1024 bytes.
    pub kv_key_bytes: usize,
    /// Bytes of one value. Larger data belongs in an object store, with its address as the value.
    pub kv_value_bytes: usize,
    /// Bytes of keys and values that one attempt changes. They are one record of the journal, and all other commits wait
    /// while it is written.
    pub kv_write_bytes: usize,
    /// Bytes of keys and values that one attempt reads, repeated reads included; the last read may exceed the limit. The
    /// host keeps them until the attempt ends, and compares them when it is committed.
    pub kv_read_bytes: usize,
    /// Keys that one attempt reads, writes and lists, repeated ones included. The commit looks up again all that the
    /// attempt read and listed.
    pub kv_operations: usize,
    /// Bytes of a component file. What compiling it may take is limited by [`CompileLimits`].
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

/// Limits of compiling one component. It happens in a process of its own, which is ended when it exceeds one. The component
/// is then refused, and is not compiled again until its bytes, these limits or the engine change.
///
/// The largest of the branches in five languages, of 12 MB in JavaScript, takes 618 MiB and 13 s on two processors;
/// `make test-languages` measures all of them, and fails if one takes more than half of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompileLimits {
    /// Bytes of resident memory, not of address space. Watched on Linux only. One component is compiled at a time.
    pub memory_bytes: u64,
    /// Time of processors, all threads together, in whole seconds.
    #[serde(with = "duration")]
    pub cpu: Duration,
    /// Time of a clock, which is longer on a busy machine.
    #[serde(with = "duration")]
    pub time: Duration,
}

impl CompileLimits {
    /// Bytes of memory, but no more than three quarters of what the machine or the control group has: beyond that the system
    /// might end the host instead.
    pub fn memory_bytes_here(&self) -> u64 {
        memory::of_machine().map_or(self.memory_bytes, |bytes| self.memory_bytes.min(bytes / 4 * 3))
    }
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { memory_bytes: 2 << 30, cpu: Duration::from_mins(2), time: Duration::from_mins(5) }
    }
}

/// A guest whose memory is counted.
pub trait Metered {
    /// The meter of memory and tables.
    fn meter(&mut self) -> &mut MemoryMeter;
}

/// Counts the memory of one attempt, denies growth over a limit, and remembers what it denied: a guest that runs out of
/// memory traps in its language's own way, and that error names no limit.
///
/// What the memories have is reserved in the host's share of guests. When that is used up, the guest ends: an allocation
/// that fails is nothing that a guest could answer for, and some would answer it with a rejection.
pub struct MemoryMeter {
    memory_bytes_max: usize,
    room: Arc<Room>,
    memory_bytes: usize,
    table_elements_max: usize,
    instances_max: usize,
    memories_max: usize,
    tables_max: usize,
    denied: Option<DeniedGrowth>,
}

/// The growth that a guest was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedGrowth {
    Memory,
    Table,
    /// The host's share for the memories of all guests is used up.
    Host,
}

/// The room of one attempt in the host's memory. The runs of an attempt follow each other and use the same room.
#[derive(Debug)]
pub struct Room {
    reserved: Mutex<Reserved>,
    /// The most bytes that a run has needed, whether it got them or not.
    peak: AtomicUsize,
}

impl Room {
    /// A room with what is reserved already; it grows as it must.
    pub fn new(reserved: Reserved) -> Arc<Self> {
        Arc::new(Self { reserved: Mutex::new(reserved), peak: AtomicUsize::new(0) })
    }

    /// The most bytes that a run has needed, whether it got them or not.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Makes room for so many bytes in all, if there is any.
    fn make(&self, bytes: usize) -> bool {
        let mut reserved = lock(&self.reserved);
        let missing = bytes.saturating_sub(reserved.bytes());
        self.peak.fetch_max(bytes, Ordering::Relaxed);
        missing == 0 || reserved.try_grow(missing)
    }
}

impl MemoryMeter {
    /// A meter at zero, of a guest that lives in `room`.
    pub fn new(limits: &Limits, room: Arc<Room>) -> Self {
        Self {
            memory_bytes_max: limits.memory_bytes,
            room,
            memory_bytes: 0,
            table_elements_max: limits.table_elements,
            instances_max: limits.instances as usize,
            memories_max: limits.memories as usize,
            tables_max: limits.tables as usize,
            denied: None,
        }
    }

    /// The growth that was denied last, if any was.
    pub fn denied(&self) -> Option<DeniedGrowth> {
        self.denied
    }
}

impl MemoryMeter {
    /// Counts memory that the host holds for the guest until the attempt ends.
    pub fn hold(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if self.memory_growing(0, bytes, None)? {
            return Ok(());
        }
        Err(wasmtime::Error::msg("what the host holds for the guest does not fit into its memory"))
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if total > self.memory_bytes_max {
            self.denied = Some(DeniedGrowth::Memory);
            return Ok(false);
        }
        if !self.room.make(total) {
            self.denied = Some(DeniedGrowth::Host);
            return Err(wasmtime::Error::msg("the host has no memory left for guests"));
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= self.table_elements_max;
        if !fits {
            self.denied = Some(DeniedGrowth::Table);
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
    use crate::memory::Share;

    fn room(share: &Arc<Share>) -> Arc<Room> {
        Room::new(share.holder().nothing())
    }

    fn meter(limits: &Limits) -> MemoryMeter {
        MemoryMeter::new(limits, room(&Share::new(1 << 30, 0)))
    }

    #[test]
    fn a_guest_ends_when_the_host_has_no_room_and_its_next_run_uses_the_same_room() {
        let share = Share::new(200, usize::MAX);
        let room = room(&share);
        let mut first = MemoryMeter::new(&Limits::default(), room.clone());
        assert!(first.memory_growing(0, 50, None).unwrap());
        drop(first);
        let mut second = MemoryMeter::new(&Limits::default(), room.clone());
        assert!(second.memory_growing(0, 70, None).unwrap());
        assert_eq!((share.used(), room.peak()), (70, 70));
        let other = share.holder().try_reserve(110).unwrap();
        assert!(second.memory_growing(70, 95, None).is_err());
        assert_eq!(second.denied(), Some(DeniedGrowth::Host));
        drop((second, room, other));
        assert_eq!(share.used(), 0);
    }

    #[test]
    fn memory_is_counted_over_all_memories_of_an_attempt() {
        let mut meter = meter(&Limits { memory_bytes: 100, ..Limits::default() });
        assert!(meter.memory_growing(0, 60, None).unwrap());
        assert!(meter.memory_growing(0, 40, None).unwrap());
        assert_eq!(meter.denied(), None);
        assert!(!meter.memory_growing(40, 41, None).unwrap());
        assert_eq!(meter.denied(), Some(DeniedGrowth::Memory));
    }

    #[test]
    fn tables_are_limited_each() {
        let mut meter = meter(&Limits { table_elements: 10, ..Limits::default() });
        assert!(meter.table_growing(0, 10, None).unwrap());
        assert!(!meter.table_growing(10, 11, None).unwrap());
        assert_eq!(meter.denied(), Some(DeniedGrowth::Table));
    }
}
