//! A store that fails: its syncs do, by a shim that is loaded before the C library.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use wasaga_testkit::process::{Host, poll};

use crate::{
    client::Client,
    probe::honest,
    world::{World, all_succeed, ends},
};

/// Compiles the shim into the folder of the test.
fn shim(world: &World) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
    let library = world.path("shim.so");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(status.expect("a C compiler is needed").success());
    library
}

/// A host whose syncs fail as soon as the file is there.
fn fallible(world: &World, command: &mut Command) -> PathBuf {
    let switch = world.path("fail");
    command.env("LD_PRELOAD", shim(world)).env("FAILING_SYNCS", &switch);
    switch
}

/// Some seconds after the last saga the store makes a checkpoint, which fails. Nothing is submitted any more.
#[tokio::test]
async fn a_store_that_fails_while_nobody_asks_ends_the_host() {
    let world = World::new("");
    let mut command = world.command();
    let switch = fallible(&world, &mut command);
    let host = Host::run(command);
    assert_eq!(Client::new(&host.address).submit(&honest("one")).await.unwrap().status, 200);
    fs::write(&switch, "").unwrap();
    assert_eq!(ends(&host).await.code(), Some(1), "{:?}", host.log());
    fs::remove_file(&switch).unwrap();
    all_succeed(&world.start(), ["one".to_owned()]).await;
}

/// Standard error is a pipe that is full, and its other end is neither read nor closed.
#[tokio::test]
async fn a_host_whose_store_fails_ends_although_nobody_reads_its_log() {
    let world = World::new("");
    let mut command = world.command();
    let switch = fallible(&world, &mut command);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let address = loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the host has not become ready");
        if let Some((_, address)) = line.trim().split_once("ready on http://") {
            break address.to_owned();
        }
    };
    // A pipe holds 64 KiB, and each of these writes a line of a hundred bytes and more.
    let mut client = Client::new(&address);
    for number in 0..2000 {
        assert_eq!(client.submit(&honest(&format!("logged-{number}"))).await.unwrap().status, 200);
    }
    fs::write(&switch, "").unwrap();
    let child = std::sync::Mutex::new(child);
    let ended = || async { child.lock().unwrap().try_wait().unwrap() };
    let status = poll(ended, || {
        child.lock().unwrap().kill().unwrap();
        "the host does not end".into()
    });
    assert_eq!(status.await.code(), Some(1));
}
