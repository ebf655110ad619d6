//! What a saga would do, asked without doing it.
//!
//! 1. Contained branches run and see what those before them would have changed; for each step it is said what a failure
//!    would take back, and what it would leave.
//! 2. Nothing is stored, committed or sent: not a row, not a record, not a call of an external branch.
//! 3. What is not known is said to be assumed, and no data is made up for it.
//! 4. A plan's data was current at one time, or there is no plan. It has limits, and its components stay while it is made.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use wasaga::{
    branch::{self, Branch, Call, Containment, DataKey, Directory, EgressRequest, NotFound, Outcome},
    engine::{
        PlanError, SubmitError,
        plan::{Changes, Ending, Plan as Planned, Settings, Trace, TracedOp},
    },
    plugin::keyvalue_keys,
    saga::{BranchId, BranchOp, Definition, Digest, Op, Pin, Pins, Status, Verdict},
    store::{Batch, Range, Read, Store},
};
use wasaga_testkit::engine::{Host, Plan, Setup, until};

/// What the test does at each call, before the branch does anything.
type Hook = Box<dyn FnMut(&dyn Read) + Send>;

/// Branches that keep accounts, each with a balance, in the data of the plugin `bank`; they do what the last part of
/// their address says. The payload of step n is `account amount`.
#[derive(Default)]
struct Bank {
    calls: Mutex<Vec<String>>,
    hook: Mutex<Option<Hook>>,
    held: Mutex<Vec<Pin>>,
}

fn pin() -> Pin {
    Pin { plugin: "bank".into(), digest: Digest([7; 32]) }
}

fn key(account: &str) -> Vec<u8> {
    [keyvalue_keys::prefix("bank", ""), account.as_bytes().to_vec()].concat()
}

fn balance(state: &dyn Read, account: &str) -> Option<i64> {
    let value = state.get(&key(account)).unwrap()?;
    Some(str::from_utf8(&value).unwrap().parse().unwrap())
}

fn add(call: &Call, state: &dyn Read, sign: i64) -> Outcome {
    let payload = String::from_utf8(call.payload().to_vec()).unwrap();
    let (account, amount) = payload.split_once(' ').unwrap();
    let amount = sign * amount.parse::<i64>().unwrap();
    let Some(old) = balance(state, account) else {
        return Outcome::rejected(format!("no account {account}"));
    };
    if old + amount < 0 {
        return Outcome::rejected(format!("only {old}"));
    }
    let mut effects = Batch::new();
    effects.expect(key(account), Some(Bytes::from(old.to_string())));
    effects.put(key(account), (old + amount).to_string());
    Outcome::Ended { verdict: Verdict::Succeeded { output: Some((old + amount).to_string()) }, effects }
}

fn accounts(state: &dyn Read) -> Outcome {
    let rows = state.scan(&Range::prefix(&keyvalue_keys::prefix("bank", "")), 100).unwrap();
    let text: Vec<_> = rows.iter().map(|(_, value)| str::from_utf8(value).unwrap()).collect();
    let mut effects = Batch::new();
    effects.expect_range(Range::prefix(&keyvalue_keys::prefix("bank", "")), rows.clone());
    Outcome::Ended { verdict: Verdict::Succeeded { output: Some(text.join(" ")) }, effects }
}

fn writes(rows: &[(Vec<u8>, Option<&[u8]>)]) -> Outcome {
    let mut effects = Batch::new();
    for (key, value) in rows {
        match value {
            Some(value) => effects.put(key, value),
            None => effects.delete(key),
        }
    }
    Outcome::Ended { verdict: Verdict::Succeeded { output: None }, effects }
}

impl Bank {
    fn hook(&self, hook: impl FnMut(&dyn Read) + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    async fn play(&self, call: &Call, host: &branch::Host) -> Outcome {
        assert!(host.is_dry_run);
        assert_eq!((call.attempt, host.egress.is_some()), (1, call.target().starts_with("gated")));
        self.calls.lock().unwrap().push(format!("{} {}", call.branch_id(), call.target()));
        if let Some(hook) = &mut *self.hook.lock().unwrap() {
            hook(&*host.state);
        }
        match call.target().split_once('/').unwrap().1 {
            "add" => add(call, &*host.state, 1),
            "undo" => {
                assert!(call.tried.is_some());
                add(call, &*host.state, -1)
            }
            "nothing" => writes(&[]),
            "accounts" => accounts(&*host.state),
            "two" => writes(&[(key("alice"), None), (key("new"), Some(b"\xff")), (b"secret".to_vec(), Some(b"x"))]),
            "again" => writes(&[(key("alice"), Some(b"100"))]),
            "many" => writes(&(0..150).map(|n| (key(&format!("{n:03}")), Some(&b"1"[..]))).collect::<Vec<_>>()),
            "long" => writes(&[(key("long"), Some(&[b'x'; 5000]))]),
            "key-too-long" => writes(&[(vec![b'k'; 2000], Some(b""))]),
            "elsewhere" => {
                let mut effects = Batch::new();
                effects.expect(key("alice"), Some(Bytes::from_static(b"from elsewhere")));
                Outcome::Ended { verdict: Verdict::Succeeded { output: None }, effects }
            }
            "no" => Outcome::rejected("no"),
            "later" => Outcome::ongoing(Some(Duration::from_secs(5))),
            "broken" => Outcome::unknown("e".repeat(2000)),
            "panic" => panic!("the test lets the branch panic"),
            "hang" => std::future::pending().await,
            "pay" => {
                let what = "POST https://pay/charges".to_owned();
                let refused = host.egress.as_ref().unwrap().request(EgressRequest { what }).await.unwrap_err();
                // What a branch makes of it does not matter.
                Outcome::rejected(refused.0)
            }
            other => panic!("{other}"),
        }
    }
}

struct Clerk(Arc<Bank>, Containment);

impl Branch for Clerk {
    fn call<'a>(&'a self, call: &'a Call, host: &'a branch::Host) -> BoxFuture<'a, Outcome> {
        assert_ne!(self.1, Containment::External, "{call:?}");
        self.0.play(call, host).boxed()
    }

    fn containment(&self) -> Containment {
        self.1
    }

    fn egress_request(&self, call: &Call) -> Option<EgressRequest> {
        Some(EgressRequest { what: format!("POST {}", call.target()) })
    }
}

struct Door(Arc<Bank>);

impl Directory for Door {
    fn describe(&self, key: &[u8]) -> Option<DataKey> {
        let place = keyvalue_keys::place(key)?;
        let [owner, bucket, key] = [place.owner, place.bucket, place.key].map(ToOwned::to_owned);
        Some(DataKey { owner, bucket, key })
    }

    fn find(&self, saga: &Definition, branch_op: BranchOp, given: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound> {
        let target = saga.target(branch_op);
        let containment = match target.split('/').next().unwrap() {
            "external" => return Ok(Arc::new(Clerk(self.0.clone(), Containment::External))),
            "gated" => Containment::Gated,
            "contained" => Containment::Contained,
            _ => return Err(NotFound(format!("nothing is at {target}"))),
        };
        assert_eq!(given, Some(&pin()));
        assert!(!self.0.held.lock().unwrap().is_empty(), "looked for before it is held");
        Ok(Arc::new(Clerk(self.0.clone(), containment)))
    }

    fn pin(&self, saga: &Definition, branch_ops: &[BranchOp]) -> Result<Pins, (BranchOp, NotFound)> {
        let mut pins = Pins::default();
        for branch_op in branch_ops {
            match saga.target(*branch_op) {
                target if target.starts_with("external") => {}
                "not_found" => return Err((*branch_op, NotFound("nothing is there".into()))),
                _ => pins.set(*branch_op, pin()),
            }
        }
        self.hold(pins.components());
        Ok(pins)
    }

    fn hold(&self, pins: &[Pin]) {
        self.0.held.lock().unwrap().extend_from_slice(pins);
    }

    fn release(&self, pins: &[Pin]) {
        let mut held = self.0.held.lock().unwrap();
        for pin in pins {
            let at = held.iter().position(|held| held == pin).expect("released as often as held");
            held.remove(at);
        }
    }
}

/// A host with alice's 100 and bob's 5.
fn host_with(settings: impl FnOnce(&mut Settings)) -> (Host, Arc<Bank>) {
    let bank = Arc::new(Bank::default());
    let host = Setup::paused(Arc::new(Door(bank.clone()))).with(|all| settings(&mut all.plan)).start();
    deposit(&host, "alice", 100);
    deposit(&host, "bob", 5);
    (host, bank)
}

fn host() -> (Host, Arc<Bank>) {
    host_with(|_| ())
}

fn deposit(host: &Host, account: &str, balance: i64) {
    set(&*host.store, account, balance);
}

fn set(store: &dyn Store, account: &str, balance: i64) {
    let mut batch = Batch::new();
    batch.put(key(account), balance.to_string());
    store.commit(batch).unwrap();
}

/// Adds a step of the bank.
fn step(plan: Plan, payload: &str, action: &str, compensation: &str) -> Plan {
    let mut plan = plan.step(action, compensation);
    plan.steps.last_mut().unwrap().payload = Bytes::copy_from_slice(payload.as_bytes());
    plan
}

fn add_step(plan: Plan, payload: &str) -> Plan {
    step(plan, payload, "contained/add", "contained/undo")
}

/// Plans, and sees that nothing has been stored and nothing is held any more.
async fn plan(host: &Host, bank: &Bank, saga: &Plan) -> Result<Planned, PlanError> {
    let (rows, commits) = (host.store.rows(b""), host.store.commits());
    let records = host.store.local().stats();
    let planned = host.engine.plan(saga.now(&host.engine)).await;
    if bank.hook.lock().unwrap().is_none() {
        assert_eq!(host.store.rows(b""), rows);
        assert_eq!(host.store.commits(), commits);
        let now = host.store.local().stats();
        assert_eq!((now.accepted, now.journal_bytes), (records.accepted, records.journal_bytes));
    }
    assert!(bank.held.lock().unwrap().is_empty());
    assert!(host.engine.find(&saga.gid).await.unwrap().is_none());
    planned
}

/// `key before>after` of each change.
fn told(changes: &Changes) -> Vec<String> {
    let value = |value: &Option<wasaga::engine::plan::Value>| {
        value.as_ref().map_or("-".to_owned(), |value| value.start.escape_ascii().to_string())
    };
    let tell = |change: &wasaga::engine::plan::Change| {
        assert_eq!((&*change.owner, &*change.bucket), ("bank", ""));
        format!("{} {}>{}", change.key, value(&change.before), value(&change.after))
    };
    assert_eq!(changes.left_out, 0);
    changes.shown.iter().map(tell).collect()
}

fn called(trace: &Trace) -> Vec<String> {
    let tell = |act: &TracedOp| format!("{} {}", BranchId(act.branch_op.step), act.branch_op.op.as_str());
    trace.ops.iter().map(tell).collect()
}

fn ids(branches: &[BranchId]) -> Vec<String> {
    branches.iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn later_steps_see_what_earlier_ones_would_change() {
    let (host, bank) = host();
    let saga = add_step(add_step(Plan::new("g"), "alice -30"), "bob 30");
    let saga = step(saga, "", "contained/accounts", "");
    let planned = plan(&host, &bank, &saga).await.unwrap();
    let Planned { trace, failures, .. } = &planned;
    assert_eq!(trace.status, Status::Succeed);
    assert_eq!(called(trace), ["01 action", "02 action", "03 action"]);
    assert_eq!(trace.ops[2].ending, Ending::Verdict(Verdict::Succeeded { output: Some("70 35".into()) }));
    assert_eq!(trace.ops[0].component, Some(pin()));
    assert_eq!(told(&trace.ops[0].changes), ["alice 100>70"]);
    assert_eq!(told(&trace.ops[1].changes), ["bob 5>35"]);
    assert_eq!(told(&trace.changes), ["alice 100>70", "bob 5>35"]);
    assert!(trace.unknown.is_empty() && trace.not_needed.is_empty());

    let whats: Vec<_> = failures.iter().map(|failure| (failure.branch.to_string(), ids(&failure.before))).collect();
    assert_eq!(
        whats,
        [("01".into(), vec![]), ("02".into(), ids(&[BranchId(0)])), ("03".into(), ids(&[BranchId(0), BranchId(1)]))]
    );
    for (failure, compensations) in
        failures.iter().zip([&[][..], &["01 compensate"], &["02 compensate", "01 compensate"]])
    {
        assert_eq!(called(&failure.trace), compensations);
        assert_eq!(failure.trace.status, Status::Failed);
        assert_eq!(ids(&failure.trace.not_needed), [failure.branch.to_string()], "itself, as it had no effect");
        assert!(failure.trace.changes.is_empty(), "{:?}", failure.trace.changes);
    }
    assert_eq!(told(&failures[2].trace.ops[0].changes), ["bob 35>5"]);
    assert_eq!((balance(&*host.store, "alice"), balance(&*host.store, "bob")), (Some(100), Some(5)));
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_fails_by_itself_tells_what_it_takes_back() {
    let (host, bank) = host();
    let saga = add_step(add_step(add_step(Plan::new("g"), "alice -30"), "nobody 30"), "bob 1");
    let planned = plan(&host, &bank, &saga).await.unwrap();
    let trace = &planned.trace;
    assert_eq!(trace.status, Status::Failed);
    assert_eq!(called(trace), ["01 action", "02 action", "01 compensate"]);
    assert_eq!(trace.ops[1].ending, Ending::Verdict(Verdict::Rejected { reason: "no account nobody".into() }));
    assert!(!trace.ops[1].is_assumed());
    assert_eq!(told(&trace.ops[2].changes), ["alice 70>100"]);
    assert_eq!(ids(&trace.not_needed), ["02"]);
    assert!(trace.changes.is_empty());
    let failing: Vec<_> = planned.failures.iter().map(|failure| failure.branch.to_string()).collect();
    assert_eq!(failing, ["01"], "the second fails anyway, the third is not reached");
}

#[tokio::test(start_paused = true)]
async fn what_a_compensation_does_not_restore_is_left() {
    let (host, bank) = host();
    let saga = step(Plan::new("g"), "alice -30", "contained/add", "contained/nothing");
    let saga = add_step(step(saga, "bob 7", "contained/add", ""), "bob 1");
    let planned = plan(&host, &bank, &saga).await.unwrap();
    let last = &planned.failures[2].trace;
    assert_eq!(called(last), ["02 compensate", "01 compensate"], "one without an address succeeds without a call");
    assert_eq!(told(&last.changes), ["alice 100>70", "bob 5>12"]);
    assert!(last.unknown.is_empty(), "that is known");
    assert_eq!(bank.calls().iter().filter(|call| call.ends_with("nothing")).count(), 2, "once for each later failure");
}

#[tokio::test(start_paused = true)]
async fn a_compensation_that_does_not_succeed_is_assumed_to_in_the_end() {
    let (host, bank) = host();
    for (compensation, ending) in [
        ("contained/no", Ending::Verdict(Verdict::Rejected { reason: "no".into() })),
        ("contained/later", Ending::Verdict(Verdict::Ongoing { retry_after: Some(Duration::from_secs(5)) })),
    ] {
        let saga = add_step(step(Plan::new("g"), "alice -30", "contained/add", compensation), "nobody 1");
        let trace = plan(&host, &bank, &saga).await.unwrap().trace;
        let act = trace.ops.last().unwrap();
        assert_eq!((&act.ending, act.is_assumed()), (&ending, true));
        assert_eq!((trace.status, ids(&trace.unknown)), (Status::Failed, vec!["01".to_owned()]));
        assert_eq!(told(&trace.changes), ["alice 100>70"], "as far as it is known");
    }
}

#[tokio::test(start_paused = true)]
async fn an_action_without_a_result_is_assumed_to_succeed_and_is_not_undone() {
    let (host, bank) = host();
    for action in ["later", "broken", "panic", "key-too-long", "elsewhere"] {
        let saga = step(add_step(Plan::new("g"), "alice -1"), "", &format!("contained/{action}"), "contained/undo");
        let planned = plan(&host, &bank, &add_step(saga, "bob 1")).await.unwrap();
        let act = &planned.trace.ops[1];
        assert!(act.is_assumed() && act.changes.is_empty(), "{act:?}");
        match (&act.ending, action) {
            (Ending::Verdict(Verdict::Ongoing { retry_after }), "later") => {
                assert_eq!(*retry_after, Some(Duration::from_secs(5)));
            }
            (Ending::Verdict(Verdict::Unknown { error }), "broken") => {
                assert!(error.len() < 1100 && error.ends_with('…'));
            }
            (Ending::Verdict(Verdict::Unknown { error }), "panic") => assert!(error.contains("panicked")),
            (Ending::Verdict(Verdict::Unknown { error }), "key-too-long") => {
                assert!(error.contains("2000 bytes is too large"), "{error}");
            }
            (Ending::Verdict(Verdict::Unknown { error }), "elsewhere") => {
                assert!(error.contains("do not fit"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((planned.trace.status, ids(&planned.trace.unknown)), (Status::Succeed, vec!["02".to_owned()]));
        let last = &planned.failures[2].trace;
        assert_eq!(called(last), ["02 compensate", "01 compensate"]);
        assert!(matches!(last.ops[0].ending, Ending::NotCalled { .. }));
        assert!(bank.calls().iter().all(|call| call != "02 contained/undo"));
        assert_eq!(ids(&last.unknown), ["02"]);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_outside_is_called() {
    let (host, bank) = host();
    let saga = step(add_step(Plan::new("g"), "alice -30"), "", "external/a", "external/b");
    let planned = plan(&host, &bank, &add_step(saga, "bob 30")).await.unwrap();
    let act = &planned.trace.ops[1];
    assert!(matches!(act.ending, Ending::NotCalled { .. }) && act.is_assumed());
    assert_eq!((&act.component, &act.requests), (&None, &vec!["POST external/a".to_owned()]));
    assert_eq!(ids(&planned.trace.unknown), ["02"]);
    // As live, an external branch that has been called is compensated, whatever it answered.
    let failing = &planned.failures[1].trace;
    assert_eq!(called(failing), ["02 compensate", "01 compensate"]);
    assert_eq!(failing.ops[0].requests, ["POST external/b"]);
    assert!(failing.not_needed.is_empty() && failing.changes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_external_compensation_is_listed_with_its_request() {
    let (host, bank) = host();
    let saga = add_step(step(Plan::new("g"), "alice -30", "contained/add", "external/b"), "nobody 1");
    let trace = plan(&host, &bank, &saga).await.unwrap().trace;
    let act = trace.ops.last().unwrap();
    assert_eq!((act.branch_op.op, &act.requests), (Op::Compensate, &vec!["POST external/b".to_owned()]));
    assert_eq!((ids(&trace.unknown), told(&trace.changes)), (vec!["01".to_owned()], vec!["alice 100>70".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_gated_plugin_runs_up_to_the_door() {
    let (host, bank) = host();
    let saga = step(Plan::new("g"), "alice -30", "gated/add", "gated/undo");
    let saga = step(saga, "", "gated/pay", "contained/nothing");
    let planned = plan(&host, &bank, &add_step(saga, "bob 30")).await.unwrap();
    let Trace { ops: acts, status, unknown, .. } = &planned.trace;
    assert_eq!(acts[0].ending, Ending::Verdict(Verdict::Succeeded { output: Some("70".into()) }), "it never knocked");
    assert_eq!(acts[1].ending, Ending::Depends { on: "POST https://pay/charges".into() });
    assert_eq!(acts[1].requests, ["POST https://pay/charges"]);
    assert_eq!((*status, ids(unknown)), (Status::Succeed, vec!["02".to_owned()]));
    // Rejected after it was out in the world, it is compensated; the one that never left is not.
    assert_eq!(called(&planned.failures[1].trace), ["02 compensate", "01 compensate"]);
    assert!(called(&planned.failures[0].trace).is_empty());
}

#[tokio::test(start_paused = true)]
async fn steps_of_a_concurrent_saga_run_in_an_order_that_they_may() {
    let (host, bank) = host();
    let saga = (0..3).fold(Plan::new("g").concurrent(), |saga, n| add_step(saga, &format!("alice {}", n + 1)));
    let planned = plan(&host, &bank, &saga.after(0, &[2]).after(1, &[2])).await.unwrap();
    assert_eq!(called(&planned.trace), ["03 action", "01 action", "02 action"]);
    assert_eq!(told(&planned.trace.changes), ["alice 100>106"]);
    let failing: Vec<_> = planned.failures.iter().map(|failure| failure.branch.to_string()).collect();
    assert_eq!(failing, ["03", "01", "02"]);
    assert_eq!(called(&planned.failures[2].trace), ["01 compensate", "03 compensate"]);
    assert!(planned.failures.iter().all(|failure| failure.trace.changes.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn only_data_of_plugins_is_shown_and_only_what_differs() {
    let (host, bank) = host();
    let saga = step(Plan::new("g"), "", "contained/two", "");
    let saga = step(saga, "", "contained/again", "");
    let planned = plan(&host, &bank, &saga).await.unwrap();
    assert_eq!(told(&planned.trace.ops[0].changes), ["alice 100>-", r"new ->\xff"]);
    assert_eq!(told(&planned.trace.ops[1].changes), ["alice ->100"]);
    assert_eq!(told(&planned.trace.changes), [r"new ->\xff"], "alice is as she was");
}

#[tokio::test(start_paused = true)]
async fn long_lists_and_values_are_cut() {
    let (host, bank) = host();
    let saga = step(step(Plan::new("g"), "", "contained/many", ""), "", "contained/long", "");
    let trace = plan(&host, &bank, &saga).await.unwrap().trace;
    let lengths = |changes: &Changes| (changes.shown.len(), changes.left_out);
    assert_eq!((lengths(&trace.ops[0].changes), lengths(&trace.changes)), ((100, 50), (100, 51)));
    let long = trace.ops[1].changes.shown[0].after.as_ref().unwrap();
    assert_eq!((long.start.len(), long.bytes), (4096, 5000));
}

#[tokio::test(start_paused = true)]
async fn a_saga_without_steps_and_steps_without_addresses_succeed() {
    let (host, bank) = host();
    assert_eq!(plan(&host, &bank, &Plan::new("g")).await.unwrap().trace.status, Status::Succeed);
    let planned = plan(&host, &bank, &Plan::new("g").step("", "")).await.unwrap();
    assert_eq!((planned.trace.ops.len(), planned.failures.len()), (1, 0), "what calls nobody cannot fail");
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_others_have_overtaken_is_made_again() {
    let (host, bank) = host();
    let store = Arc::downgrade(&host.store);
    let mut calls = 0;
    bank.hook(move |state| {
        calls += 1;
        // After the first step of the first try has been read.
        if calls == 2 {
            set(&*store.upgrade().unwrap(), "alice", 1000);
            assert_eq!(balance(state, "alice"), Some(70), "it sees the state of its plan");
        }
    });
    let saga = add_step(add_step(Plan::new("g"), "alice -30"), "bob 30");
    let planned = plan(&host, &bank, &saga).await.unwrap();
    assert_eq!(told(&planned.trace.changes), ["alice 1000>970", "bob 5>35"]);
    assert_eq!(bank.calls().len(), 6, "two tries of two actions and a compensation");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_appears_in_what_was_listed_makes_a_plan_again() {
    let (host, bank) = host();
    let store = Arc::downgrade(&host.store);
    let mut calls = 0;
    bank.hook(move |_| {
        calls += 1;
        if calls == 2 {
            set(&*store.upgrade().unwrap(), "carol", 9);
        }
    });
    let saga = step(step(Plan::new("g"), "", "contained/accounts", ""), "", "contained/accounts", "");
    let trace = plan(&host, &bank, &saga).await.unwrap().trace;
    let all = Ending::Verdict(Verdict::Succeeded { output: Some("100 5 9".into()) });
    assert_eq!((&trace.ops[0].ending, &trace.ops[1].ending), (&all, &all));
    assert_eq!(bank.calls().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_changes_all_the_time_cannot_be_planned() {
    let (host, bank) = host();
    let store = Arc::downgrade(&host.store);
    let mut alice = 100;
    bank.hook(move |state| {
        balance(state, "alice");
        alice += 1;
        set(&*store.upgrade().unwrap(), "alice", alice);
    });
    let error = plan(&host, &bank, &add_step(Plan::new("g"), "alice -30")).await.unwrap_err();
    assert!(matches!(error, PlanError::Changing { .. }), "{error}");
    assert_eq!(bank.calls().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn other_data_may_change_meanwhile() {
    let (host, bank) = host();
    let store = Arc::downgrade(&host.store);
    bank.hook(move |_| set(&*store.upgrade().unwrap(), "bob", 6));
    plan(&host, &bank, &add_step(Plan::new("g"), "alice -30")).await.unwrap();
    assert_eq!(bank.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn limits_are_kept_and_named() {
    let (host, bank) = host_with(|plan| {
        plan.steps_max = 2;
        plan.data_bytes_max = 4000;
        plan.time_max = Duration::from_secs(7);
    });
    let three = (0..3).fold(Plan::new("g"), |saga, _| add_step(saga, "alice 1"));
    let hang = step(Plan::new("g"), "", "contained/hang", "");
    let long = step(Plan::new("g"), "", "contained/long", "");
    for (saga, name) in [(three, "steps_max"), (hang, "time_max"), (long, "data_bytes_max")] {
        let error = plan(&host, &bank, &saga).await.unwrap_err().to_string();
        assert!(error.contains(&format!("saga.plan.{name}")), "{error}");
    }
    // Reads count as well, also where the branch goes on as if nothing had happened.
    deposit(&host, "long", 1);
    let mut batch = Batch::new();
    batch.put(key("long"), [b'x'; 5000]);
    host.store.commit(batch).unwrap();
    bank.hook(|state| assert!(state.get(&key("long")).is_err()));
    let error = plan(&host, &bank, &step(Plan::new("g"), "", "contained/no", "")).await.unwrap_err();
    assert!(matches!(error, PlanError::TooMuchData { max: 4000 }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn only_so_many_plans_are_made_at_once_and_none_by_a_host_that_stops() {
    let (host, bank) = host_with(|plan| plan.at_once = 1);
    let hang = step(Plan::new("g"), "", "contained/hang", "").now(&host.engine);
    let engine = host.engine.clone();
    let hanging = tokio::spawn(async move { engine.plan(hang).await });
    until(async || (!bank.calls.lock().unwrap().is_empty()).then_some(())).await;
    let quick = Plan::new("g").now(&host.engine);
    let busy = host.engine.plan(quick.clone()).await.unwrap_err();
    assert!(matches!(busy, PlanError::Busy { max: 1, .. }), "{busy}");
    host.engine.stop(Duration::ZERO).await;
    for stopped in [hanging.await.unwrap(), host.engine.plan(quick).await] {
        let error = stopped.unwrap_err();
        assert!(matches!(error, PlanError::Submit(SubmitError::Stopping)), "{error}");
    }
    assert!(bank.held.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_submission_could_not_call_is_refused_in_its_words() {
    let (host, bank) = host();
    let saga = step(Plan::new("g"), "", "contained/nothing", "not_found");
    let refused = plan(&host, &bank, &saga).await.unwrap_err().to_string();
    assert_eq!(refused, "the compensate of step 0 (counted from 0) cannot be called: nothing is there");
    assert_eq!(bank.calls(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_gid_of_a_stored_saga_makes_no_difference() {
    let (host, bank) = host();
    let stored = Plan::new("g").step("", "").wait();
    host.settle(&stored).await;
    let before = host.find("g").await.log;
    let planned = host.engine.plan(add_step(Plan::new("g"), "alice -30").now(&host.engine)).await.unwrap();
    assert_eq!(told(&planned.trace.changes), ["alice 100>70"]);
    assert_eq!((host.find("g").await.log, bank.calls().len()), (before, 1));
}
