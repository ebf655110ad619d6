//! A test fixture that misbehaves as its payload says.
//!
//! The payload is an object: `try` and `cancel` name the action of each function, the other members are arguments. A
//! function without an action succeeds without output.

mod keyvalue;

wit_bindgen::generate!({ world: "plugin", path: "../../wit", generate_all });

mod http;

use std::{
    hint::black_box,
    io::Write as _,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use exports::wasaga::saga::branch::{Call, Failure, Guest};
use serde_json::{Value, json};
use wasi::{
    cli::environment,
    clocks::monotonic_clock,
    config::store as config,
    filesystem::preopens,
    logging::logging::{Level, log},
    sockets::{
        instance_network::instance_network, ip_name_lookup, network::IpAddressFamily, tcp_create_socket,
        udp_create_socket,
    },
};

/// Never more than 1 if every attempt has an instance of its own.
static CALLS: AtomicU32 = AtomicU32::new(0);

/// Tests make versions of this component by writing another number here, in the finished file.
static VERSION: &str = "version-00000000";

struct Chaos;

impl Guest for Chaos {
    fn try_(call: Call) -> Result<Option<String>, Failure> {
        let wish: Value = serde_json::from_str(&call.payload).unwrap_or_default();
        match wish["try"].as_str().unwrap_or_default() {
            "echo" => give(echo(&call)),
            "version" => give(json!(black_box(VERSION))),
            "count" => give(json!(CALLS.fetch_add(1, Relaxed) + 1)),
            "look around" => give(surroundings()),
            "connect" => give(connect()),
            "fetch" => http::fetch(&wish),
            "stream" => http::stream(&wish),
            "output" => Ok(Some(text(&wish, "text"))),
            "kv" => give(keyvalue::run(&wish)?),
            "config" => give(settings(&text(&wish, "key"))),
            "random" => give(json!(wasi::random::random::get_random_bytes(number(&wish, "bytes")).len())),
            other => misbehave(other, &wish).map(|()| None),
        }
    }

    fn cancel(call: Call, tried: Option<String>) -> Result<(), Failure> {
        let wish: Value = serde_json::from_str(&call.payload).unwrap_or_default();
        match wish["cancel"].as_str().unwrap_or_default() {
            // Fails unless the version that ran `try` also runs `cancel`.
            "version" if tried != Some(json!(black_box(VERSION)).to_string()) => {
                Err(Failure::Unavailable(format!("this is {VERSION}, tried was {tried:?}")))
            }
            "version" => Ok(()),
            // An error is the only output of a compensation.
            "echo" => Err(Failure::Unavailable(json!({ "tried": tried, "call": echo(&call) }).to_string())),
            other => misbehave(other, &wish),
        }
    }
}

fn misbehave(how: &str, wish: &Value) -> Result<(), Failure> {
    match how {
        "" => Ok(()),
        "reject" => Err(Failure::Rejected(text(wish, "text"))),
        "go on" => Err(Failure::Ongoing(wish["ms"].as_u64().map(|ms| ms as u32))),
        "be unavailable" => Err(Failure::Unavailable(text(wish, "text"))),
        "allocate" => allocate(),
        "spin" => loop {
            black_box(());
        },
        "spin for" => spin_for(number(wish, "ms")),
        "recurse" => Err(Failure::Unavailable(recurse(1).to_string())),
        "trap" => std::process::abort(),
        "panic" => panic!("{}", text(wish, "text")),
        "exit" => std::process::exit(3),
        "sleep" => {
            monotonic_clock::subscribe_duration(number(wish, "ms") * 1_000_000).block();
            Ok(())
        }
        "hoard handles" => {
            let mut handles = Vec::new();
            loop {
                handles.push(monotonic_clock::subscribe_duration(1));
            }
        }
        "print" => print(wish),
        "fetch" => http::fetch(wish).map(drop),
        "leave requests" => http::leave_requests(wish),
        "hoard requests" => http::hoard_requests(),
        "log" => write_log(wish),
        "kv" => keyvalue::run(wish).map(drop),
        unknown => Err(Failure::Rejected(format!("chaos does not know how to {unknown}"))),
    }
}

/// Logs `lines` (level, context and text) `times` times.
fn write_log(wish: &Value) -> Result<(), Failure> {
    for _ in 0..wish["times"].as_u64().unwrap_or(1) {
        for line in wish["lines"].as_array().into_iter().flatten() {
            let level = match line[0].as_str() {
                Some("trace") => Level::Trace,
                Some("debug") => Level::Debug,
                Some("info") => Level::Info,
                Some("warn") => Level::Warn,
                Some("error") => Level::Error,
                _ => Level::Critical,
            };
            log(level, line[1].as_str().unwrap_or_default(), line[2].as_str().unwrap_or_default());
        }
    }
    Ok(())
}

/// One setting, and all of them.
fn settings(key: &str) -> Value {
    json!({ "one": config::get(key).unwrap_or_default(), "all": config::get_all().unwrap_or_default() })
}

fn give(output: Value) -> Result<Option<String>, Failure> {
    Ok(Some(output.to_string()))
}

fn echo(call: &Call) -> Value {
    json!({
        "gid": call.gid,
        "branch-id": call.branch_id,
        "attempt": call.attempt,
        "payload": call.payload,
        "headers": call.headers,
        "results": call.results,
        "idempotency-key": call.idempotency_key,
    })
}

fn surroundings() -> Value {
    json!({
        "environment": environment::get_environment().len(),
        "arguments": environment::get_arguments().len(),
        "directories": preopens::get_directories().len(),
        "file": std::fs::read("/etc/hostname").is_ok(),
        "input": std::io::stdin().lines().count(),
    })
}

fn connect() -> Value {
    let name = ip_name_lookup::resolve_addresses(&instance_network(), "localhost").map(|_| ());
    let tcp = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4).map(|_| ());
    let udp = udp_create_socket::create_udp_socket(IpAddressFamily::Ipv4).map(|_| ());
    json!({ "name": format!("{name:?}"), "tcp": format!("{tcp:?}"), "udp": format!("{udp:?}") })
}

fn allocate() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Uses only the engine's stack, and none of the stack in linear memory.
fn recurse(depth: u64) -> u64 {
    if CALLS.load(Relaxed) == u32::MAX { depth } else { recurse(depth + 1).wrapping_mul(3) ^ depth }
}

fn spin_for(ms: u64) -> Result<(), Failure> {
    let end = monotonic_clock::now() + ms * 1_000_000;
    while monotonic_clock::now() < end {}
    Ok(())
}

/// Writes `text` to `stream` `times` times.
fn print(wish: &Value) -> Result<(), Failure> {
    let text = text(wish, "text");
    for _ in 0..wish["times"].as_u64().unwrap_or(1) {
        let written = match wish["stream"].as_str() {
            Some("error") => std::io::stderr().write_all(text.as_bytes()),
            _ => std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()),
        };
        written.map_err(|error| Failure::Rejected(error.to_string()))?;
    }
    match wish["then"].as_str() {
        Some(next) => misbehave(next, wish),
        None => Ok(()),
    }
}

/// A string argument; a number means that many letters.
fn text(wish: &Value, key: &str) -> String {
    match &wish[key] {
        Value::String(text) => text.clone(),
        length => "x".repeat(length.as_u64().unwrap_or_default() as usize),
    }
}

fn number(wish: &Value, key: &str) -> u64 {
    wish[key].as_u64().unwrap_or_default()
}

export!(Chaos);
