//! A saga of an HTTP branch, a plugin and an HTTP branch, the last of which refuses: everything is taken back, in the
//! right order, whenever the host dies. The host is the real program and dies of SIGKILL.

use serde_json::{Value, json};
use tempfile::TempDir;
use wasaga_testkit::process::{Host, branch_statuses};

use crate::participant::{Answer, BALANCE, Participant};

const GID: &str = "mixed";

/// The calls that a participant sees, in their order; the plugin's are between the first two and the last two.
const CALLS: [&str; 4] = ["SagaBTransOut", "SagaBTransIn", "SagaBTransInCom", "SagaBTransOutCom"];

/// When the host dies, seen from a call that the participant has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// Before anything is done about it.
    BeforeWork,
    /// After the work, before the answer.
    BeforeAnswer,
    /// Around the time when the answer arrives.
    WithAnswer,
}

fn saga(participant: &Participant) -> Value {
    let http = |action: &str| json!({ "action": participant.url(action), "compensate": participant.url(&format!("{action}Com")) });
    let wasm = json!({ "action": "wasm://service-b/try", "compensate": "wasm://service-b/cancel" });
    let refused = json!({ "amount": 30, "trans_in_result": "FAILURE" }).to_string();
    json!({
        "gid": GID,
        "trans_type": "saga",
        "steps": [http("SagaBTransOut"), wasm, http("SagaBTransIn")],
        "payloads": [refused, r#"{"amount":100}"#, refused],
    })
}

/// The saga must have ended with everything taken back, last step first, and no money moved.
async fn assert_rolled_back(host: &Host, participant: &Participant, what: &str) {
    let view = host.wait_for_end(GID).await;
    assert_eq!(view["transaction"]["status"], "failed", "{what}");
    assert_eq!(branch_statuses(&view), "sssssf", "{what}");
    let (_, log) = host.get(&format!("/api/v1/sagas/{GID}/log")).await.unwrap();
    let ended: Vec<_> = log
        .lines()
        .filter(|line| line.contains("compensate succeeded"))
        .map(|line| line.split_whitespace().nth(2).unwrap())
        .collect();
    assert_eq!(ended, ["03", "02", "01"], "{what}\n{log}");
    let mut calls = participant.names();
    calls.dedup();
    assert_eq!(calls, CALLS, "{what}");
    assert_eq!(participant.balances(), (BALANCE, BALANCE), "{what}");
}

async fn submit(host: &Host, participant: &Participant) {
    let (status, body) = host.submit(saga(participant).to_string()).await.unwrap();
    assert_eq!((status, body.as_str()), (200, r#"{"dtm_result":"SUCCESS"}"#));
}

#[tokio::test]
async fn a_mixed_saga_that_fails_at_its_third_step_is_compensated_in_order() {
    let data = TempDir::new().unwrap();
    let participant = Participant::start().await;
    let host = Host::start(data.path());
    submit(&host, &participant).await;
    assert_rolled_back(&host, &participant, "undisturbed").await;
    assert_eq!(participant.calls().len(), CALLS.len(), "nothing was called twice");
}

#[tokio::test]
async fn a_mixed_saga_is_compensated_in_order_whenever_the_host_is_killed() {
    for call in CALLS {
        for death in [Death::BeforeWork, Death::BeforeAnswer, Death::WithAnswer] {
            let what = format!("{death:?} of {call}");
            let data = TempDir::new().unwrap();
            let participant = Participant::start().await;
            let mut gate = participant.hold(call);
            let host = Host::start(data.path());
            submit(&host, &participant).await;
            gate.arrived().await;
            match death {
                Death::BeforeWork => host.signal_kill(),
                Death::BeforeAnswer => {
                    participant.work(call);
                    host.signal_kill();
                }
                Death::WithAnswer => {
                    gate.answer(Answer::Act);
                    tokio::task::yield_now().await;
                    host.signal_kill();
                }
            }
            drop(host);
            let host = Host::start(data.path());
            assert_rolled_back(&host, &participant, &what).await;
        }
    }
}
