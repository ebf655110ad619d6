//! Folders of earlier formats.

use std::{process::Command, thread, time::Duration};

use serde_json::{Value, json};

use crate::{Folder, common::Host, service::Service};

/// All sagas of a fixture, and their statuses while the service is gone.
const LEFT: [(&str, &str); 13] = [
    ("open-alice", "succeed"),
    ("open-bob", "succeed"),
    ("open-carol", "succeed"),
    ("finished", "succeed"),
    ("failed", "failed"),
    ("outputs", "succeed"),
    ("prepared", "prepared"),
    ("aborting", "aborting"),
    ("waiting", "submitted"),
    ("long", "submitted"),
    ("stopped", "failed"),
    ("newer", "succeed"),
    ("newer-waiting", "submitted"),
];

/// How those end that are unfinished, once the service is there.
const ENDS: [(&str, &str); 5] = [
    ("aborting", "failed"),
    ("waiting", "succeed"),
    ("long", "succeed"),
    ("newer-waiting", "succeed"),
    ("prepared", "succeed"),
];

#[tokio::test]
async fn a_folder_that_was_closed_is_opened_and_finished() {
    open_and_finish(&Folder::unpack("data-1", "stopped")).await;
}

#[tokio::test]
async fn a_folder_with_a_torn_journal_is_opened_and_finished() {
    open_and_finish(&Folder::unpack("data-1", "torn")).await;
}

#[tokio::test]
async fn a_folder_without_its_state_database_is_opened_and_finished() {
    open_and_finish(&Folder::unpack("data-1", "base")).await;
}

#[tokio::test]
async fn kills_during_the_upgrade_lose_nothing() {
    for fixture in ["torn", "base"] {
        let folder = Folder::unpack("data-1", fixture);
        // The upgrade and the recovery take some tens of milliseconds; where the kills fall differs from run to run.
        for kill in 0..20 {
            let mut host = Command::new(env!("CARGO_BIN_EXE_wasaga"))
                .args(["--listen", "127.0.0.1:0", "--data"])
                .arg(folder.data())
                .arg("--plugins")
                .arg(folder.plugins())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            // Not a wait for anything: it chooses where the kill falls.
            thread::sleep(Duration::from_millis(4 * kill));
            host.kill().unwrap();
            host.wait().unwrap();
        }
        open_and_finish(&folder).await;
    }
}

async fn open_and_finish(folder: &Folder) {
    let turn = Service::turn().await;
    let host = Host::start_on(&folder.data(), &folder.plugins(), &[]);
    for (gid, status) in LEFT {
        assert_eq!(host.query(gid).await["transaction"]["status"], status, "{gid}");
    }
    let pinned = |view: &Value| view["steps"][0]["action"]["component"]["sha256"].as_str().unwrap().to_owned();
    let [old, new] = [native(&host, "waiting").await, native(&host, "newer-waiting").await].map(|view| pinned(&view));
    assert_ne!(old, new, "they are pinned to two versions of the plugin");

    let service = Service::start(turn).await;
    let steps = |gid: &str| json!({ "gid": gid, "trans_type": "saga" }).to_string();
    let (status, answer) = host.submit(steps("prepared")).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    for (gid, _) in ENDS {
        let (status, answer) = host.post("/api/dtmsvr/resetNextCronTime", steps(gid)).await.unwrap();
        assert!(status == 200 || status == 409, "{answer}");
    }
    for (gid, end) in ENDS {
        assert_eq!(host.wait_for_end(gid).await["transaction"]["status"], end, "{gid}");
    }
    assert_eq!(pinned(&native(&host, "waiting").await), old);

    let mut balances = Vec::new();
    for name in ["alice", "bob", "carol"] {
        balances.push(balance(&host, name).await);
    }
    // `stopped` took 3 from alice and was ended by hand before anybody got them.
    assert_eq!(balances, [1000 - 100 - 10 - 1 - 3 - 4 - 5 - 7, 100 + 10 + 1 + 4 + 5 + 7, 50]);
    drop(service);
    assert!(host.terminate().success());
    let host = Host::start_on(&folder.data(), &folder.plugins(), &[]);
    assert_eq!(balance(&host, "bob").await, 127, "the second start finds what the first has left");
}

/// What an account holds.
async fn balance(host: &Host, name: &str) -> i64 {
    let gid = format!("balance-{name}-{}", fastrand::u64(..));
    let saga = json!({
        "gid": gid,
        "trans_type": "saga",
        "steps": [{ "action": "wasm://account/try", "compensate": "wasm://account/cancel" }],
        "payloads": [json!({ "account": name }).to_string()],
        "wait_result": true,
    });
    let (status, answer) = host.submit(saga.to_string()).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    let view = native(host, &gid).await;
    let output = &view["steps"][0]["action"]["output"];
    let output: Value = output.as_str().map_or_else(|| output.clone(), |text| serde_json::from_str(text).unwrap());
    output["balance"].as_i64().unwrap()
}

/// Our own view of a saga.
async fn native(host: &Host, gid: &str) -> Value {
    let (status, body) = host.get(&format!("/api/v1/sagas/{gid}")).await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}
