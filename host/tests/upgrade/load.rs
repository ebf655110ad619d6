//! Clients at work while versions come by both ways, and the host is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, task::JoinSet};
use wasaga::saga::Digest;
use wasaga_testkit::process::{Host, poll};

use crate::{chaos, component};

const CLIENTS: u32 = 4;
const VERSIONS: u32 = 16;

/// Two steps that say which version they are of, and whose compensations insist on being of the same; then one that is
/// rejected every other time.
fn saga(gid: &str, is_rejected: bool) -> String {
    let step = |plugin: &str| json!({ "action": format!("wasm://{plugin}/try"), "compensate": format!("wasm://{plugin}/cancel") });
    let versioned = json!({ "try": "version", "cancel": "version" });
    json!({
        "gid": gid,
        "trans_type": "saga",
        "steps": [step("chaos"), step("chaos"), step("service-b")],
        "payloads": [versioned, versioned, { "amount": if is_rejected { 600 } else { 100 } }],
        "wait_result": true,
    })
    .to_string()
}

/// All clients, and the host as it is now.
struct World {
    host: watch::Sender<Option<Arc<Host>>>,
    is_over: AtomicBool,
    /// By gid, whether the saga was to be rejected.
    sagas: Mutex<BTreeMap<String, bool>>,
}

impl World {
    /// Sends until a host answers.
    async fn submit(&self, body: &str) -> (u16, String) {
        loop {
            match self.host().await.submit(body.to_owned()).await {
                Ok((status, text)) if status < 500 => return (status, text),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn client(self: Arc<Self>, number: u32) {
        for n in 0.. {
            if self.is_over.load(Relaxed) {
                break;
            }
            let (gid, is_rejected) = (format!("saga-{number}-{n}"), n % 2 == 1);
            let (status, text) = self.submit(&saga(&gid, is_rejected)).await;
            // 409 also for one that had ended when it was sent again, as nobody had answered.
            let expected: &[u16] = if is_rejected { &[409] } else { &[200, 409, 425] };
            assert!(expected.contains(&status), "{gid}: {status} {text}");
            self.sagas.lock().unwrap().insert(gid, is_rejected);
        }
    }

    /// Brings version after version, by the API and by the folder in turn, until there have been enough.
    async fn upgrade(self: Arc<Self>, folder: &Path) {
        for version in 1..=VERSIONS {
            if version % 2 == 0 {
                // One that is killed before it answers may have taken it or not, and takes it again.
                let put = || async {
                    let (status, text) = self.host().await.put("/api/v1/plugins/chaos", chaos(version)).await.ok()?;
                    assert_eq!(status, 200, "{text}");
                    Some(())
                };
                poll(put, || format!("version {version} is not taken")).await;
            } else {
                let new = folder.join("chaos.new");
                fs::write(&new, chaos(version)).unwrap();
                fs::rename(&new, folder.join("chaos.wasm")).unwrap();
            }
            let digest = Digest(Sha256::digest(chaos(version)).into()).to_string();
            let is_current = || async {
                let (_, text) = self.host().await.get("/api/v1/plugins/chaos").await.ok()?;
                (serde_json::from_str::<Value>(&text).ok()?["sha256"] == *digest).then_some(())
            };
            poll(is_current, || format!("version {version} does not become current")).await;
        }
        self.is_over.store(true, Relaxed);
    }

    async fn host(&self) -> Arc<Host> {
        self.host.subscribe().wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_saga_fails_for_an_upgrade_and_none_mixes_versions() {
    let dir = tempfile::tempdir().unwrap();
    let (data, folder) = (dir.path().join("data"), dir.path().join("plugins"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("chaos.wasm"), chaos(0)).unwrap();
    fs::write(folder.join("service-b.wasm"), component("plugins", "service-b")).unwrap();
    let config = dir.path().join("wasaga.toml");
    fs::write(&config, "[plugins]\nwatch = \"40ms\"\n").unwrap();
    let start = || Arc::new(Host::start_on(&data, &folder, &["--config", config.to_str().unwrap()]));

    let world =
        Arc::new(World { host: watch::Sender::new(Some(start())), is_over: false.into(), sagas: Mutex::default() });
    let upgrades = tokio::spawn({
        let (world, folder) = (world.clone(), folder.clone());
        async move { world.upgrade(&folder).await }
    });
    let mut clients = JoinSet::new();
    (0..CLIENTS).for_each(|number| drop(clients.spawn(world.clone().client(number))));
    let mut kills = 0;
    while !world.is_over.load(Relaxed) {
        // An arbitrary delay, not a wait for a condition.
        tokio::time::sleep(Duration::from_millis(1700)).await;
        let host = world.host.send_replace(None).unwrap();
        host.signal_kill();
        world.host.send_replace(Some(start()));
        kills += 1;
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    upgrades.await.unwrap();
    let host = world.host.borrow().clone().unwrap();
    let sagas = std::mem::take(&mut *world.sagas.lock().unwrap());
    audit(&host, &sagas).await;
    println!("{kills} kills");
    only_what_is_needed_is_kept(&host, &data.join("components/chaos")).await;
}

async fn audit(host: &Host, sagas: &BTreeMap<String, bool>) {
    let mut versions = BTreeSet::new();
    for (gid, is_rejected) in sagas {
        host.wait_for_end(gid).await;
        let (status, text) = host.get(&format!("/api/v1/sagas/{gid}")).await.unwrap();
        assert_eq!(status, 200, "{text}");
        let view: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(view["status"], if *is_rejected { "failed" } else { "succeed" }, "{view:#}");
        let steps = view["steps"].as_array().unwrap();
        let (first, second) = (&steps[0]["action"], &steps[1]["action"]);
        assert!(first["output"].is_string() && first["output"] == second["output"], "{view:#}");
        for operation in steps.iter().flat_map(|step| [&step["action"], &step["compensation"]]) {
            assert!(operation.get("error").is_none() && operation["attempts"].as_u64() <= Some(1), "{view:#}");
        }
        assert_eq!(first["component"], steps[1]["compensation"]["component"], "{view:#}");
        versions.insert(first["output"].as_str().unwrap().to_owned());
    }
    println!("{} sagas on {} versions", sagas.len(), versions.len());
    assert!(
        sagas.len() > 200 && versions.len() > usize::try_from(VERSIONS / 2).unwrap(),
        "too little to tell anything"
    );
}

async fn only_what_is_needed_is_kept(host: &Host, folder: &Path) {
    let is_component = |file: &fs::DirEntry| file.path().extension().is_some_and(|extension| extension == "wasm");
    let files = || fs::read_dir(folder).unwrap().map(Result::unwrap).filter(is_component).count();
    let listed = || async {
        let (_, text) = host.get("/api/v1/plugins/chaos").await.unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["versions"].as_array().unwrap().len()
    };
    // The current one, and one to go back to.
    poll(|| async { (listed().await == 2 && files() == 2).then_some(()) }, || format!("{} versions are kept", files()))
        .await;
}
