//! Lines that wait to be written. A slow terminal or pipe must not hold up sagas: what does not fit is dropped and counted.
//!
//! Invariant: of [`LINES_MAX`] places at most [`GUEST_LINES_MAX`] have lines of guests, so guests push out no line of the
//! host. Lines are written in the order in which they came.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, SyncSender, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::line::{Format, is_guests};

/// Lines that wait at most: some seconds of a busy host.
const LINES_MAX: usize = 65_536;

/// How many of them may be guests'.
const GUEST_LINES_MAX: usize = LINES_MAX / 4;

/// Lines are written together up to this length, in bytes.
const BATCH_BYTES: usize = 64 << 10;

/// Shortest time between two notes of dropped lines, unless nothing waits.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Where lines wait. Used as a writer of `tracing-subscriber`.
pub struct Queue {
    messages: SyncSender<Message>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Lines of guests that wait.
    guests_waiting: AtomicUsize,
    /// Lines that were dropped and not noted yet.
    host_dropped: AtomicU64,
    guests_dropped: AtomicU64,
}

enum Message {
    Line {
        line: Vec<u8>,
        is_guests: bool,
    },
    /// All before it are written, then it is dropped.
    End(SyncSender<()>),
}

/// Dropping it waits until all lines before are written.
pub struct Guard(SyncSender<Message>);

impl Drop for Guard {
    fn drop(&mut self) {
        let (done, written) = mpsc::sync_channel(1);
        if self.0.send(Message::End(done)).is_ok() {
            // An error says that the thread has ended.
            let _ = written.recv();
        }
    }
}

impl Queue {
    /// Starts a thread that writes lines.
    pub fn start(to: impl Write + Send + 'static, format: Format) -> io::Result<(Self, Guard)> {
        let (messages, waiting) = mpsc::sync_channel(LINES_MAX);
        let counts = Arc::new(Counts::default());
        let writer = Writer {
            to,
            format,
            counts: counts.clone(),
            batch: Vec::new(),
            is_within_line: false,
            last_note: Instant::now(),
        };
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&waiting))?;
        Ok((Self { messages: messages.clone(), counts }, Guard(messages)))
    }

    fn put(&self, line: &[u8], is_guests: bool) {
        let Self { messages, counts } = self;
        if is_guests && counts.guests_waiting.fetch_add(1, Relaxed) >= GUEST_LINES_MAX
            || messages.try_send(Message::Line { line: line.to_vec(), is_guests }).is_err()
        {
            if is_guests {
                counts.guests_waiting.fetch_sub(1, Relaxed);
            }
            let dropped = if is_guests { &counts.guests_dropped } else { &counts.host_dropped };
            dropped.fetch_add(1, Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: self, is_guests: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { queue: self, is_guests: is_guests(metadata) }
    }
}

/// Takes one line.
pub struct Line<'a> {
    queue: &'a Queue,
    is_guests: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.put(line, self.is_guests);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Pause after which a write is tried again that would have blocked.
const WRITE_PAUSE: Duration = Duration::from_millis(10);

/// The thread's side.
struct Writer<W> {
    to: W,
    format: Format,
    counts: Arc<Counts>,
    batch: Vec<u8>,
    /// The last write ended before its end.
    is_within_line: bool,
    last_note: Instant,
}

impl<W: Write> Writer<W> {
    /// Writes the batch. If not all could be written, returns how many lines are lost.
    fn write_batch(&mut self) -> Option<u64> {
        if self.is_within_line && !self.batch.is_empty() {
            self.batch.insert(0, b'\n');
        }
        let mut rest = &*self.batch;
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(0) => break,
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A program that shares the other end has set it so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(WRITE_PAUSE),
                // If standard error is closed, nobody is left to tell.
                Err(_) => break,
            }
        }
        let _ = self.to.flush();
        (!rest.is_empty()).then(|| rest.split(|byte| *byte == b'\n').count() as u64 - 1)
    }

    fn run(mut self, waiting: &Receiver<Message>) {
        loop {
            let message = match waiting.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.note();
                    self.write();
                    waiting.recv().ok()
                }
                message => message.ok(),
            };
            match message {
                Some(Message::Line { line, is_guests }) => {
                    if is_guests {
                        self.counts.guests_waiting.fetch_sub(1, Relaxed);
                    }
                    self.batch.extend_from_slice(&line);
                    if self.batch.len() >= BATCH_BYTES {
                        if self.last_note.elapsed() >= NOTE_EVERY {
                            self.note();
                        }
                        self.write();
                    }
                }
                Some(Message::End(done)) => {
                    self.note();
                    self.write();
                    drop(done);
                }
                None => return self.write(),
            }
        }
    }

    /// Adds a line that says how many were dropped since the last look.
    fn note(&mut self) {
        let Counts { host_dropped, guests_dropped, .. } = &*self.counts;
        let (host, guests) = (host_dropped.swap(0, Relaxed), guests_dropped.swap(0, Relaxed));
        if host + guests > 0 {
            let seconds = self.last_note.elapsed().as_secs_f64();
            self.batch.extend_from_slice(self.format.note_of_dropped(host, guests, seconds).as_bytes());
        }
        self.last_note = Instant::now();
    }

    fn write(&mut self) {
        let lost = self.write_batch();
        self.is_within_line = lost.is_some();
        // Whose they were is not known any more.
        self.counts.host_dropped.fetch_add(lost.unwrap_or_default(), Relaxed);
        self.batch.clear();
        self.batch.shrink_to(BATCH_BYTES * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that reads nothing until it is told to.
    struct Slow {
        may_write: Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.may_write.recv();
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn guests_push_out_no_line_of_the_host() {
        let (go, may_write) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let (queue, guard) = Queue::start(Slow { may_write, written }, Format::Text { is_coloured: false }).unwrap();
        let host_lines = LINES_MAX - GUEST_LINES_MAX;
        for _ in 0..LINES_MAX * 2 {
            queue.put(b"guest\n", true);
        }
        for _ in 0..host_lines {
            queue.put(b"host\n", false);
        }
        drop(go);
        drop(guard);
        let text = String::from_utf8(lines.try_iter().flatten().collect()).unwrap();
        let count = |line: &str| text.lines().filter(|found| *found == line).count();
        assert_eq!(count("host"), host_lines);
        // The thread may have taken a batch from the queue before it waited.
        assert!((GUEST_LINES_MAX..GUEST_LINES_MAX + BATCH_BYTES).contains(&count("guest")), "{}", count("guest"));
        let dropped = LINES_MAX * 2 - count("guest");
        let notes: Vec<_> = text.lines().filter(|line| line.contains("were dropped")).collect();
        assert!(notes.len() == 1 && notes[0].contains(&format!("of_the_host=0 of_guests={dropped} ")), "{notes:?}");
    }

    /// Writes at most ten bytes at a time, and fails as it is told.
    struct Failing {
        errors: Vec<Option<io::ErrorKind>>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(Some(error)) = self.errors.pop() {
                return Err(error.into());
            }
            let bytes = &bytes[..bytes.len().min(10)];
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_write_that_fails_counts_its_lines_and_one_that_would_block_goes_on() {
        let (written, lines) = mpsc::channel();
        // From the end: two parts are written, one would block, one fails for good.
        let errors = vec![Some(io::ErrorKind::StorageFull), Some(io::ErrorKind::WouldBlock), None, None];
        let mut writer = Writer {
            to: Failing { errors, written },
            format: Format::Json,
            counts: Arc::default(),
            batch: b"first line\nsecond line\nthird line\n".to_vec(),
            is_within_line: false,
            last_note: Instant::now(),
        };
        writer.write();
        assert_eq!(writer.counts.host_dropped.load(Relaxed), 2);
        writer.batch.extend_from_slice(b"fourth\n");
        writer.write();
        let text = String::from_utf8(lines.try_iter().flatten().collect()).unwrap();
        assert_eq!(text, "first line\nsecond li\nfourth\n");
    }

    #[test]
    fn lines_of_the_host_that_do_not_fit_are_counted() {
        let (go, may_write) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let (queue, guard) = Queue::start(Slow { may_write, written }, Format::Json).unwrap();
        for _ in 0..LINES_MAX * 2 {
            queue.put(b"host\n", false);
        }
        drop(go);
        drop(guard);
        let text = String::from_utf8(lines.try_iter().flatten().collect()).unwrap();
        let kept = text.lines().filter(|line| *line == "host").count();
        let note = text.lines().find(|line| line.starts_with('{')).unwrap();
        let note: serde_json::Value = serde_json::from_str(note).unwrap();
        assert_eq!(note["fields"]["of_the_host"], LINES_MAX * 2 - kept);
    }
}
