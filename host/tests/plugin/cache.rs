//! Compiled code is kept, and only ever used as it was written.

use std::{fs, os::unix::fs::PermissionsExt};

use tempfile::TempDir;
use wasaga::plugin::{Code, Plugin, collector};
use wasaga_testkit::engine::until;

use super::*;

struct Host {
    dir: TempDir,
    settings: Settings,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { cache_dir: Some(dir.path().join("code")), ..Settings::default() };
        fs::create_dir(dir.path().join("plugins")).unwrap();
        for name in ["account", "service-a", "service-b"] {
            fs::write(dir.path().join("plugins").join(name).with_extension("wasm"), component("plugins", name))
                .unwrap();
        }
        Self { dir, settings }
    }

    fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    /// A new host over the same cache.
    fn start(&self) -> Registry {
        load(&self.settings, &self.plugins())
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("code")
    }

    /// The entries, in the order of the plugins that they are of.
    fn entries(&self, registry: &Registry) -> Vec<PathBuf> {
        let files: Vec<PathBuf> = fs::read_dir(self.cache()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let of = |plugin: &Arc<Plugin>| {
            let is_its =
                |file: &&PathBuf| file.file_name().unwrap().to_str().unwrap().starts_with(&plugin.digest().to_string());
            files.iter().find(is_its).unwrap().clone()
        };
        let entries: Vec<PathBuf> = registry.plugins().iter().map(of).collect();
        assert_eq!(entries.len(), files.len(), "nothing else is left behind: {files:?}");
        entries
    }
}

fn codes(registry: &Registry) -> Vec<Code> {
    registry.plugins().iter().map(|plugin| plugin.code()).collect()
}

#[tokio::test]
async fn a_second_start_compiles_nothing() {
    let host = Host::new();
    assert_eq!(codes(&host.start()), [Code::Compiled; 3]);
    let again = host.start();
    assert_eq!(codes(&again), [Code::Cached; 3]);
    assert_eq!(rejected(try_(&again, "service-b", &json!({"amount": 501})).await), "simulated failure");
}

#[tokio::test]
async fn a_damaged_entry_is_compiled_again() {
    let damages: [fn(&mut Vec<u8>); 5] = [
        |entry| {
            let middle = entry.len() / 2;
            entry[middle] ^= 1;
        },
        |entry| entry[0] ^= 1,
        |entry| entry.truncate(entry.len() / 2),
        |entry| entry.truncate(3),
        Vec::clear,
    ];
    let host = Host::new();
    let entries = host.entries(&host.start());
    for damage in damages {
        let mut entry = fs::read(&entries[0]).unwrap();
        damage(&mut entry);
        fs::write(&entries[0], entry).unwrap();
        let mended = host.start();
        assert_eq!(codes(&mended), [Code::Compiled, Code::Cached, Code::Cached]);
        assert_eq!(output(try_(&mended, "service-a", &json!({})).await), Value::Null);
        assert_eq!(codes(&host.start()), [Code::Cached; 3]);
    }
}

#[test]
fn an_entry_under_another_name_is_not_used() {
    let host = Host::new();
    let entries = host.entries(&host.start());
    fs::copy(&entries[1], &entries[0]).unwrap();
    assert_eq!(codes(&host.start()), [Code::Compiled, Code::Cached, Code::Cached]);
}

#[test]
fn other_engine_settings_have_entries_of_their_own() {
    let host = Host::new();
    host.start();
    let mut settings = host.settings.clone();
    settings.limits.memory_bytes /= 2;
    assert_eq!(codes(&load(&settings, &host.plugins())), [Code::Compiled; 3]);
    assert_eq!(codes(&host.start()), [Code::Cached; 3]);
}

#[test]
fn only_the_host_may_write_to_the_cache() {
    let host = Host::new();
    fs::create_dir(host.cache()).unwrap();
    fs::set_permissions(host.cache(), fs::Permissions::from_mode(0o777)).unwrap();
    host.start();
    assert_eq!(fs::metadata(host.cache()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn without_a_usable_cache_everything_works() {
    let host = Host::new();
    fs::write(host.cache(), "a file where the folder should be").unwrap();
    let registry = host.start();
    assert_eq!(codes(&registry), [Code::Compiled; 3]);
    assert_eq!(output(try_(&registry, "service-a", &json!({})).await), Value::Null);
}

#[tokio::test]
async fn a_host_sweeps_compiled_code_of_others_and_leftovers_of_killed_ones_at_its_start() {
    let host = Host::new();
    let mut older = host.settings.clone();
    older.limits.memory_bytes /= 2;
    load(&older, &host.plugins());
    fs::write(host.cache().join(".0123456789abcdef.tmp"), "half").unwrap();
    let (uploaded, fresh) =
        (host.plugins().join(".0123456789abcdef.tmp"), host.plugins().join(".fedcba9876543210.tmp"));
    let long_ago = std::time::SystemTime::now() - Duration::from_hours(2);
    fs::File::create(&uploaded).unwrap().set_modified(long_ago).unwrap();
    fs::write(&fresh, "another host is writing it").unwrap();
    // A component whose file has gone while no host was running.
    fs::remove_file(host.plugins().join("account.wasm")).unwrap();

    let plugins = Arc::new(host.start());
    let store = Arc::new(store::Memory::default());
    let collecting = tokio::spawn(collector::run(plugins.clone(), store, None, true));
    until(async || (fs::read_dir(host.cache()).unwrap().count() == 2 && !uploaded.exists()).then_some(())).await;
    collecting.abort();
    assert!(fresh.exists());
    host.entries(&plugins);
    // Neither the newer host nor, after a downgrade, the older one misses anything but time.
    assert_eq!(codes(&host.start()), [Code::Cached; 2]);
    assert_eq!(codes(&load(&older, &host.plugins())), [Code::Compiled; 2]);
}
