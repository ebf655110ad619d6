//! Ports and folders that another process has.

use std::net::TcpListener;

use wasaga_testkit::process::{Host, poll};

use crate::{
    client::Client,
    probe::honest,
    world::{World, assert_alive, files, refused},
};

/// 36789 lies in Linux's range for outgoing connections, so another process's connection may have it when a host starts.
#[tokio::test]
async fn a_port_that_is_taken_at_the_start_is_tried_again() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let world = World::new("grpc_listen = \"off\"\n");
    let log = world.path("log");
    let mut command = world.command_on(&address);
    command.stdout(std::process::Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let child = std::sync::Mutex::new(command.spawn().unwrap());
    let read = || std::fs::read_to_string(&log).unwrap();
    let named = || async { read().contains(&address).then_some(()) };
    poll(named, || format!("the log does not name the port:\n{}", read())).await;
    drop(other);
    let answers = || async {
        assert!(child.lock().unwrap().try_wait().unwrap().is_none(), "the host has given up:\n{}", read());
        Client::new(&address).submit(&honest("served")).await.is_ok_and(|answer| answer.status == 200).then_some(())
    };
    poll(answers, || format!("the host does not listen:\n{}", read())).await;
    child.lock().unwrap().kill().unwrap();
    child.lock().unwrap().wait().unwrap();
}

#[tokio::test]
async fn a_second_host_on_the_same_data_is_refused_and_changes_nothing() {
    let world = World::new("");
    let host: Host = world.start();
    let mut client = Client::new(&host.address);
    assert_eq!(client.submit(&honest("before")).await.unwrap().status, 200);
    let names = || files(&world.data).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    let before = names();
    let log = refused(world.command());
    assert_eq!(names(), before, "{log}");
    assert_eq!(client.submit(&honest("after")).await.unwrap().status, 200);
    assert_alive(&host);
}
