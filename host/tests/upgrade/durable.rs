//! The power goes when a saga has ended and its version is no longer needed, as far as anybody knows.

use std::{path::Path, sync::Arc, time::Duration};

use wasaga::{
    branch::{grpc, http},
    directory::Branches,
    engine::Submitted,
    plugin::{Registry, Runtime, Settings, collector},
    saga::{Op, Status, Step},
};
use wasaga_testkit::engine::{Host, Plan, Setup, until};

use crate::chaos;

fn open(dir: &Path) -> (Arc<Registry>, Setup) {
    let component_store_dir = Some(dir.join("component_store"));
    let settings = Settings { component_store_dir, spare_versions: 0, slots: 4, ..Settings::default() };
    let plugins = Arc::new(Registry::load(&Runtime::new(&settings).unwrap(), &dir.join("plugins"), Vec::new()));
    let settings = http::Settings::default();
    let services = (http::Client::new(&settings).unwrap(), grpc::Client::new(&settings));
    (plugins.clone(), Setup::new(Arc::new(Branches::new(plugins, services.0, services.1))))
}

fn saga(payload: &str) -> Plan {
    let step = Step {
        action: "wasm://chaos/try".into(),
        compensation: "wasm://chaos/cancel".into(),
        payload: payload.to_owned().into(),
    };
    Plan { steps: vec![step], ..Plan::new("g") }
}

/// How many versions there are.
fn versions(plugins: &Registry) -> usize {
    plugins.versions().len()
}

#[tokio::test]
async fn a_version_goes_when_it_is_on_disk_that_its_last_saga_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (plugins, setup) = open(dir.path());
    plugins.publish("chaos", &chaos(1)).unwrap();
    let old = plugins.pin("wasm://chaos/try", Op::Action).unwrap().unwrap();
    let host: Host = setup.start();
    let keeping = tokio::spawn(collector::run(plugins.clone(), host.store.clone(), None, true));
    // It is stored, waits, and runs again on the version that it is pinned to.
    host.submit(&saga(r#"{"try":"go on","ms":3600000}"#)).await;
    host.until_idle().await;
    plugins.publish("chaos", &chaos(2)).unwrap();
    assert_eq!(versions(&plugins), 2);

    host.disk.hold();
    let engine = host.engine.clone();
    let stopping = tokio::spawn(async move { engine.force_stop("g").await });
    until(async || (host.engine.counts().open == 0).then_some(())).await;
    // No saga needs it, but a crash now would bring the saga back.
    until(async || plugins.versions().iter().all(|version| version.sagas == 0).then_some(())).await;
    plugins.look();
    tokio::task::yield_now().await;
    assert!(plugins.find(&old, Op::Action).is_ok());
    assert!(dir.path().join(format!("component_store/chaos/{}.wasm", old.digest)).exists());

    host.disk.release();
    stopping.await.unwrap().unwrap();
    until(async || (versions(&plugins) == 1).then_some(())).await;
    // It leaves the list before its file is removed.
    let file = dir.path().join(format!("component_store/chaos/{}.wasm", old.digest));
    until(async || (!file.exists()).then_some(())).await;
    keeping.abort();
    assert!(keeping.await.unwrap_err().is_cancelled());
    host.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn versions_stay_while_their_users_are_unknown_and_lost_ones_are_still_searched() {
    let dir = tempfile::tempdir().unwrap();
    let (plugins, _) = open(dir.path());
    let pins = (1..=4).map(|version| {
        plugins.publish("chaos", &chaos(version)).unwrap();
        plugins.pin("wasm://chaos/try", Op::Action).unwrap().unwrap()
    });
    let pins: Vec<_> = pins.collect();
    drop(plugins);
    let file = |version: usize| dir.path().join(format!("component_store/chaos/{}.wasm", pins[version - 1].digest));
    for lost in [2, 3] {
        std::fs::remove_file(file(lost)).unwrap();
    }
    let (plugins, setup) = open(dir.path());
    plugins.hold(&pins[1..3]);
    let host = setup.start();
    let keeping = tokio::spawn(collector::run(plugins.clone(), host.store.clone(), None, false));
    // When the second one is found, what there was to let go of after the first has been.
    for (lost, pin) in [(2, &pins[1]), (3, &pins[2])] {
        assert!(plugins.find(pin, Op::Action).is_err());
        std::fs::write(file(lost), chaos(lost.try_into().unwrap())).unwrap();
        until(async || plugins.find(pin, Op::Action).is_ok().then_some(())).await;
    }
    assert_eq!(versions(&plugins), 4, "nobody is known to need the first");
    keeping.abort();
    host.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_saga_that_a_crash_brings_back_finds_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let (plugins, setup) = open(dir.path());
    plugins.publish("chaos", &chaos(1)).unwrap();
    let host = setup.start();
    host.submit(&saga(r#"{"try":"version","cancel":"version"}"#)).await;
    let host = {
        // What comes after the submission is lost; and so is this host's memory of the plugins.
        let mut setup = host.kill().await;
        plugins.publish("chaos", &chaos(2)).unwrap();
        drop(plugins);
        let (again, other) = open(dir.path());
        assert_eq!(versions(&again), 2);
        setup.directory = other.directory;
        setup.start()
    };
    let record = host.until_status("g", Status::Succeed).await;
    let output = record.saga.outputs().next().map(|(_, output)| output.to_owned());
    assert_eq!(output.as_deref(), Some("\"version-00000001\""));
    let again =
        host.engine.submit(Plan { gid: "h".into(), ..saga(r#"{"try":"version"}"#) }.wait().now(&host.engine)).await;
    let Ok(Submitted::Waited(saga)) = again else { panic!("{again:?}") };
    assert_eq!(saga.outputs().next().unwrap().1, "\"version-00000002\"");
}
