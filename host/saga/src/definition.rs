//! What a client submitted: validated once, at submission, and never changed afterwards.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;

/// Milliseconds since the Unix epoch. The machine never reads a clock; time is an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This time plus `delay`, saturating.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long until `later`; zero when it has passed.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

/// The global id of a saga, chosen by the client.
///
/// DTM drops line breaks and semicolons from gids and cuts nothing; its SQL column ends at 128 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gid(Arc<str>);

impl Gid {
    /// Longest accepted gid, in characters, as in DTM's column. In bytes that is four times as much at most, which keys of
    /// the store and headers have room for.
    pub const CHARS_MAX: usize = 128;

    /// Removes the characters that DTM removes. An error: the rest is empty, too long, or has characters that hide text
    /// in a log.
    pub fn new(raw: &str) -> Result<Self, Invalid> {
        let dropped = ['\n', '\r', ';'];
        let gid: Arc<str> = if raw.contains(dropped) { raw.replace(dropped, "").into() } else { raw.into() };
        match gid.len() {
            0 => Err(Invalid::GidEmpty),
            bytes if bytes > Self::CHARS_MAX && gid.chars().count() > Self::CHARS_MAX => {
                Err(Invalid::GidTooLong { chars: gid.chars().count() })
            }
            _ if gid.chars().any(is_invisible) => Err(Invalid::GidInvisible),
            _ => Ok(Self(gid)),
        }
    }

    /// A gid that was checked before it was stored. Limits may have changed since; stored sagas stay readable.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The text of the gid.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Characters that change how the text around them is shown: controls, terminal escapes, text directions.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a step that its participant gets: `01`, `02`, ... `100`, as in DTM. Displays itself so; holds the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchId(pub usize);

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0 + 1)
    }
}

/// One of the two operations of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// The work itself; `try` of a Wasm branch.
    Action,
    /// What takes the work back; `cancel` of a Wasm branch.
    Compensate,
}

impl Op {
    /// DTM's word for it, as sent to participants.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Compensate => "compensate",
        }
    }
}

/// One operation of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchOp {
    /// Index of the step, from 0.
    pub step: usize,
    /// Which of its operations.
    pub op: Op,
}

/// One pair of action and compensation, and the payload that both receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where the action is: `wasm://plugin/try`, `http(s)://...`, or empty (succeeds without a call).
    pub action: String,
    /// Where the compensation is; empty as above.
    pub compensation: String,
    /// Given verbatim to both. Text, except that gRPC branches take, and gRPC clients send, any bytes.
    pub payload: Bytes,
}

impl Step {
    /// The address of one of the two operations.
    pub fn target(&self, op: Op) -> &str {
        match op {
            Op::Action => &self.action,
            Op::Compensate => &self.compensation,
        }
    }
}

/// In which order the actions of a saga may start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// False: each step also waits for the step before it.
    pub concurrent: bool,
    /// Step index to the indexes of the steps whose actions must have succeeded first.
    pub after: BTreeMap<usize, Vec<usize>>,
}

/// How the answers of HTTP branches are understood. Where the saga does not say, the host's settings do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// Every status from 200 to 299 is a success, and of the body only `dtm_result` is read.
    pub any_2xx_succeeds: Option<bool>,
    /// The attempt of an action from which on a status from 500 to 599 is a rejection; 0: never, it is tried again.
    pub rejects_5xx_after: Option<u64>,
}

/// What a client may set for one saga. Zero means "not set", as in DTM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The submission is answered when the saga ends or waits for a retry.
    pub wait_result: bool,
    /// Seconds from creation after which an unfinished saga is rolled back; 0: never.
    pub timeout_to_fail_s: u64,
    /// Seconds that one attempt may take; 0: the host's setting.
    pub request_timeout_s: u64,
    /// Seconds before the first retry of an attempt; 0: the host's setting.
    pub retry_interval_s: u64,
    /// How many failed attempts of actions are retried before the saga is rolled back; 0: no limit.
    pub retry_limit: u64,
    /// Sent with every call of a branch.
    pub branch_headers: Vec<(String, String)>,
    /// Kept and shown as given; how a saga runs comes from [`Order`].
    pub concurrent: bool,
    /// Kept and shown as given.
    pub protocol: String,
    /// The text that [`Order`] was read from; kept and shown as given.
    pub custom_data: String,
    /// Kept and shown as given; not used.
    pub query_prepared: String,
    /// Also from `custom_data`.
    pub results: Results,
}

/// A saga as the client submitted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    gid: Gid,
    steps: Vec<Step>,
    order: Order,
    options: Options,
    created_at: Timestamp,
}

impl Definition {
    /// Most steps of one saga. Bounds the work of one look at a saga, which is linear in its steps.
    pub const STEPS_MAX: usize = 1000;

    /// Most branch headers of one saga. Common servers refuse requests with more than 100 headers; some are the host's.
    pub const BRANCH_HEADERS_MAX: usize = 64;

    /// Checks that the order names existing steps and can be carried out.
    pub fn new(
        gid: Gid,
        steps: Vec<Step>,
        order: Order,
        options: Options,
        created_at: Timestamp,
    ) -> Result<Self, Invalid> {
        if steps.len() > Self::STEPS_MAX {
            return Err(Invalid::TooManySteps { steps: steps.len() });
        }
        for (&step, befores) in &order.after {
            if let Some(&bad) = std::iter::once(&step).chain(befores).find(|&&i| i >= steps.len()) {
                return Err(Invalid::OrderOutOfRange { step, names: bad, steps: steps.len() });
            }
        }
        let definition = Self { gid, steps, order, options, created_at };
        match definition.find_cycle() {
            Some(step) => Err(Invalid::OrderCyclic { step }),
            None => Ok(definition),
        }
    }

    /// A definition that was checked before it was stored. Limits may have changed since; stored sagas stay readable.
    pub fn from_stored(gid: Gid, steps: Vec<Step>, order: Order, options: Options, created_at: Timestamp) -> Self {
        Self { gid, steps, order, options, created_at }
    }

    /// The saga's global id.
    pub fn gid(&self) -> &Gid {
        &self.gid
    }

    /// Its steps, in the order of submission.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// In which order the actions may start.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// The client's options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// When it was first accepted.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// The address of one operation; empty (no call) for a step that does not exist.
    pub fn target(&self, branch_op: BranchOp) -> &str {
        self.steps.get(branch_op.step).map_or("", |step| step.target(branch_op.op))
    }

    /// Whether steps may run concurrently.
    pub fn is_concurrent(&self) -> bool {
        self.order.concurrent
    }

    /// The steps whose actions must have succeeded before that of `step` may start.
    pub fn predecessors(&self, step: usize) -> impl Iterator<Item = usize> + '_ {
        let previous = if self.order.concurrent { None } else { step.checked_sub(1) };
        previous.into_iter().chain(self.order.after.get(&step).into_iter().flatten().copied())
    }

    /// Bytes of all that a client can make long: payloads, addresses, headers and texts.
    pub fn bytes(&self) -> usize {
        let step = |step: &Step| step.payload.len() + step.action.len() + step.compensation.len();
        let header = |(name, value): &(String, String)| name.len() + value.len();
        let Options { branch_headers, custom_data, query_prepared, protocol, .. } = &self.options;
        self.steps.iter().map(step).sum::<usize>()
            + branch_headers.iter().map(header).sum::<usize>()
            + custom_data.len()
            + query_prepared.len()
            + protocol.len()
    }

    /// Whether both describe the same saga: then a repeated submission is accepted. The time of submission and
    /// `wait_result` may differ.
    pub fn same_request(&self, other: &Self) -> bool {
        let described = |options: &Options| Options { wait_result: false, ..options.clone() };
        self.gid == other.gid
            && self.steps == other.steps
            && self.order == other.order
            && described(&self.options) == described(&other.options)
    }

    /// A step that waits for itself, if any: what is left when the startable steps are removed again and again (Kahn).
    fn find_cycle(&self) -> Option<usize> {
        if self.order.after.is_empty() {
            return None;
        }
        let mut waits: Vec<usize> = (0..self.steps.len()).map(|i| self.predecessors(i).count()).collect();
        let mut followers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for step in 0..self.steps.len() {
            for before in self.predecessors(step) {
                followers.entry(before).or_default().push(step);
            }
        }
        let mut startable: Vec<usize> = (0..self.steps.len()).filter(|i| waits.get(*i) == Some(&0)).collect();
        while let Some(step) = startable.pop() {
            for &follower in followers.get(&step).into_iter().flatten() {
                if let Some(left) = waits.get_mut(follower) {
                    *left -= 1;
                    if *left == 0 {
                        startable.push(follower);
                    }
                }
            }
        }
        waits.iter().position(|left| *left > 0)
    }
}

/// Why a submission is invalid. Nothing has been stored; correct the request and send it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No gid, or only characters that DTM drops.
    #[error("gid is empty: choose one, or ask GET /api/dtmsvr/newGid for one")]
    GidEmpty,
    /// The gid is too long.
    #[error("gid has {chars} characters, the limit is {}", Gid::CHARS_MAX)]
    GidTooLong { chars: usize },
    /// The gid has characters that change how the text around it is shown.
    #[error("gid holds a control or a text direction character: remove it")]
    GidInvisible,
    /// More steps than the limit.
    #[error("the saga has {steps} steps, the limit is {}", Definition::STEPS_MAX)]
    TooManySteps { steps: usize },
    /// An order names a step that is not there.
    #[error("custom_data.orders of step {step} names step {names}, but the saga has {steps} steps (counted from 0)")]
    OrderOutOfRange {
        /// The step with the order.
        step: usize,
        /// The step named.
        names: usize,
        /// How many steps there are.
        steps: usize,
    },
    /// The steps wait for each other.
    #[error("custom_data.orders is cyclic: step {step} (counted from 0) waits for itself, so it could never start")]
    OrderCyclic {
        /// A step of the cycle, or behind it.
        step: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn define(steps: usize, order: Order) -> Result<Definition, Invalid> {
        let step = Step { action: "a".into(), compensation: "c".into(), payload: Bytes::new() };
        Definition::new(Gid::new("g").unwrap(), vec![step; steps], order, Options::default(), Timestamp(0))
    }

    fn order(concurrent: bool, after: &[(usize, &[usize])]) -> Order {
        Order { concurrent, after: after.iter().map(|(step, list)| (*step, list.to_vec())).collect() }
    }

    #[test]
    fn a_gid_loses_what_dtm_drops_and_must_not_be_empty() {
        assert_eq!(Gid::new("a\n;b\r").unwrap().as_str(), "ab");
        assert_eq!(Gid::new(";\n"), Err(Invalid::GidEmpty));
        for character in ["x", "\u{1f600}"] {
            assert!(Gid::new(&character.repeat(128)).is_ok());
            assert_eq!(Gid::new(&character.repeat(129)), Err(Invalid::GidTooLong { chars: 129 }));
        }
        for invisible in ["a\0b", "\u{1b}[31m", "a\u{202e}b"] {
            assert_eq!(Gid::new(invisible), Err(Invalid::GidInvisible));
        }
    }

    #[test]
    fn orders_must_name_steps_and_have_no_cycle() {
        assert!(define(3, order(true, &[(2, &[0, 1]), (1, &[0])])).is_ok());
        assert_eq!(define(2, order(true, &[(1, &[0]), (0, &[1])])), Err(Invalid::OrderCyclic { step: 0 }));
        assert_eq!(define(1, order(true, &[(0, &[0])])), Err(Invalid::OrderCyclic { step: 0 }));
        assert_eq!(define(2, order(true, &[(1, &[7])])), Err(Invalid::OrderOutOfRange { step: 1, names: 7, steps: 2 }));
        assert_eq!(define(2, order(true, &[(9, &[])])), Err(Invalid::OrderOutOfRange { step: 9, names: 9, steps: 2 }));
    }

    #[test]
    fn a_sequential_saga_adds_its_own_order_to_the_clients() {
        assert_eq!(define(2, order(false, &[(0, &[1])])), Err(Invalid::OrderCyclic { step: 0 }));
        assert!(define(2, order(true, &[(0, &[1])])).is_ok());
    }

    #[test]
    fn there_is_a_limit_of_steps() {
        assert!(define(Definition::STEPS_MAX, Order::default()).is_ok());
        assert_eq!(define(1001, Order::default()), Err(Invalid::TooManySteps { steps: 1001 }));
    }
}
