//! The system has no file descriptors for a while, or cannot keep components: no plugin is lost, and what could not be read
//! is read when that is over, although its file has not changed.

use std::{
    fs::{self, File},
    process::Command,
};

use tempfile::TempDir;
use wasaga::plugin::PublishError;

use super::*;

const CHILD: &str = "WASAGA_TEST_FEW_DESCRIPTORS";

/// All descriptors that the process may have, until it is dropped.
fn exhaust() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

struct World {
    dir: TempDir,
    settings: Settings,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("plugins")).unwrap();
        let component_store_dir = Some(dir.path().join("components"));
        let cache_dir = Some(dir.path().join("compiled"));
        Self { settings: Settings { component_store_dir, cache_dir, slots: 4, ..Settings::default() }, dir }
    }

    fn start(&self) -> Registry {
        load(&self.settings, &self.dir.path().join("plugins"))
    }

    fn put(&self, name: &str) {
        fs::write(self.dir.path().join("plugins").join(name).with_extension("wasm"), component("plugins", "service-a"))
            .unwrap();
    }
}

fn is_there(plugins: &Registry, name: &str) -> bool {
    plugins.resolve(&format!("wasm://{name}/try"), Op::Action).is_ok()
}

/// In a process of its own, since the limit is that of a process.
#[test]
fn a_host_without_descriptors_loses_no_plugin_and_reads_them_when_it_has_some() {
    if std::env::var_os(CHILD).is_some() {
        return without_descriptors();
    }
    let name = "descriptors::a_host_without_descriptors_loses_no_plugin_and_reads_them_when_it_has_some";
    let child = Command::new("sh")
        .args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}

fn without_descriptors() {
    let world = World::new();
    world.put("old");
    let plugins = world.start();
    let old = plugins.pin("wasm://old/try", Op::Action).unwrap().unwrap();
    let bytes = component("plugins", "service-b");
    // What is there stays, and a new file is taken in later, wherever in between the descriptors end.
    for left in 0..6 {
        let (new, uploaded) = (format!("new-{left}"), format!("uploaded-{left}"));
        world.put(&new);
        plugins.look();
        let mut taken = exhaust();
        taken.truncate(taken.len() - left);
        plugins.look();
        plugins.sweep();
        let is_published = plugins.publish(&uploaded, &bytes).is_ok();
        plugins.look();
        assert!(is_there(&plugins, "old") && is_there(&plugins, &uploaded) == is_published, "{left} left");
        assert!(left > 0 || !is_there(&plugins, &new) && !is_published);
        drop(taken);
        for _ in 0..4 {
            plugins.look();
        }
        assert!(is_there(&plugins, "old") && is_there(&plugins, &new), "{left} left");
        plugins.publish(&uploaded, &bytes).unwrap();
    }

    // A host that recovers without descriptors has the component of its sagas when it has some.
    fs::remove_file(world.dir.path().join("plugins/old.wasm")).unwrap();
    drop(plugins);
    let kept = world.dir.path().join(format!("components/old/{}.wasm", old.digest));
    let elsewhere = world.dir.path().join("elsewhere");
    fs::rename(&kept, &elsewhere).unwrap();
    let plugins = world.start();
    fs::rename(&elsewhere, &kept).unwrap();
    let none = exhaust();
    plugins.hold(std::slice::from_ref(&old));
    plugins.look_for_lost();
    assert!(plugins.find(&old, Op::Action).is_err());
    drop(none);
    plugins.look_for_lost();
    assert!(plugins.find(&old, Op::Action).is_ok());
    assert!(is_there(&plugins, "new-0") && is_there(&plugins, "uploaded-0"));
}

#[test]
fn a_file_that_could_not_be_kept_is_tried_again_with_growing_pauses() {
    let world = World::new();
    let plugins = world.start();
    let in_the_way = world.dir.path().join("components/a");
    fs::write(&in_the_way, "a file where the folder should be").unwrap();
    world.put("a");
    plugins.look();
    for _ in 0..10 {
        plugins.look();
        assert!(!is_there(&plugins, "a"));
        assert!(matches!(plugins.refused()[..], [ref refused] if matches!(refused.error, PublishError::NotKept(_))));
    }
    fs::remove_file(&in_the_way).unwrap();
    let looks = (1..=100).find(|_| {
        plugins.look();
        is_there(&plugins, "a")
    });
    assert!((2..=16).contains(&looks.unwrap()), "{looks:?}");
    assert!(plugins.refused().is_empty());
}
