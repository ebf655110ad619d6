//! Plugins and the way to their data.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use serde_json::{Value, json};
use tempfile::TempDir;
use wasaga::{
    branch::{grpc, http},
    directory::Branches,
    plugin::{Grants, Registry, Runtime, Settings, grants, grants::rule::Allowed, keyvalue_keys},
    saga::{BranchOp, Event, Step},
    store::{Batch, Read, Store, Ticket},
};
use wasaga_testkit::{
    component_file,
    engine::{Host, Plan},
    server::Server,
};

/// The components, as in a plugin folder: `account`, and the misbehaving fixture as `inside`, which is contained, and as
/// `outside`, which may ask the server for anything.
pub struct Plugins {
    pub branches: Arc<Branches>,
    _dir: TempDir,
}

impl Plugins {
    /// With nothing that leads outside.
    pub fn contained() -> Self {
        Self::load(Vec::new())
    }

    /// Which may reach the server.
    pub fn reaching(server: &Server) -> Self {
        let methods = vec!["GET".to_owned(), "POST".to_owned()];
        Self::load(vec![Allowed { url: server.url("/"), methods, private: true }])
    }

    /// They outlive the hosts that call them, which saves loading them at every start.
    fn load(http: Vec<Allowed>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, folder, file) in
            [("inside", "fixtures", "chaos"), ("outside", "fixtures", "chaos"), ("account", "plugins", "account")]
        {
            fs::copy(component_file(folder, file), dir.path().join(name).with_extension("wasm")).unwrap();
        }
        let grants = Grants::new("outside", &grants::Settings { http, ..grants::Settings::default() }).unwrap();
        let settings = Settings {
            grants: BTreeMap::from([("outside".to_owned(), Arc::new(grants))]),
            // Compiled once for all tests.
            cache_dir: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("exactly-once-cache")),
            ..Settings::default()
        };
        let plugins = Arc::new(Registry::load(&Runtime::new(&settings).unwrap(), dir.path(), Vec::new()));
        let settings = http::Settings::default();
        let services = (http::Client::new(&settings).unwrap(), grpc::Client::new(&settings));
        Self { branches: Arc::new(Branches::new(plugins, services.0, services.1)), _dir: dir }
    }
}

/// A saga of plugins with their payloads.
pub fn saga(gid: &str, steps: &[(&str, Value)]) -> Plan {
    let mut plan = Plan::new(gid);
    for (plugin, payload) in steps {
        let address = |function: &str| format!("wasm://{plugin}/{function}");
        let payload = payload.to_string().into();
        plan.steps.push(Step { action: address("try"), compensation: address("cancel"), payload });
    }
    plan
}

/// A request to the server.
pub fn request(server: &Server, method: &str, path: &str) -> Value {
    json!({"scheme": "http", "authority": server.authority(), "method": method, "path": path})
}

fn key(plugin: &str, key: &str) -> Vec<u8> {
    [keyvalue_keys::prefix(plugin, "default"), key.as_bytes().to_vec()].concat()
}

/// A value of a plugin, committed or not yet durable.
pub fn value(host: &Host, plugin: &str, name: &str) -> Option<String> {
    let value = host.store.local().get(&key(plugin, name)).unwrap();
    value.map(|value| String::from_utf8(value.into()).unwrap())
}

/// Gives a plugin a value. The ticket tells when it is on disk.
pub fn give(host: &Host, plugin: &str, name: &str, value: &str) -> Ticket {
    let mut batch = Batch::new();
    batch.put(key(plugin, name), value);
    host.store.local().commit(batch).unwrap()
}

/// The operations that a log says were started.
pub fn starts(log: &[Event]) -> Vec<BranchOp> {
    log.iter().filter(|event| matches!(event, Event::Started { .. })).filter_map(Event::branch_op).collect()
}
