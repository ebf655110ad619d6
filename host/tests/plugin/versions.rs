//! Plugins that change while the host runs: which version new sagas use, and which are kept for old ones.

use std::fs;

use tempfile::TempDir;
use wasaga::{
    plugin::{ComponentError, PublishError, address, version},
    saga::{BranchOp, Pin},
};

use super::*;

/// `chaos` in another version.
fn chaos_v(version: u32) -> Vec<u8> {
    let mut bytes = component("fixtures", "chaos");
    let (old, new) = (b"version-00000000", format!("version-{version:08}"));
    let at = bytes.windows(old.len()).position(|window| window == old).expect("chaos has its version in it");
    bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
    bytes
}

/// A plugin folder, and what a host keeps of it.
struct World {
    dir: TempDir,
    settings: Settings,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("plugins")).unwrap();
        let (cache_dir, component_store_dir) =
            (Some(dir.path().join("code")), Some(dir.path().join("component_store")));
        let mut settings = Settings { cache_dir, component_store_dir, slots: 4, ..Settings::default() };
        change(&mut settings);
        Self { dir, settings }
    }

    /// A host starts.
    fn start(&self) -> Registry {
        load(&self.settings, &self.dir.path().join("plugins"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("plugins").join(name).with_extension("wasm")
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.file(name), bytes).unwrap();
    }

    /// The versions of `chaos` in the component store.
    fn kept(&self) -> usize {
        let files = fs::read_dir(self.dir.path().join("component_store/chaos"));
        files.map_or(0, |files| files.filter(|file| file.as_ref().unwrap().file_name() != "current").count())
    }
}

/// Which version new sagas use.
async fn current(registry: &Registry) -> Option<u32> {
    let branch = registry.resolve("wasm://chaos/try", Op::Action).ok()??;
    Some(version_of(branch).await)
}

async fn version_of(branch: Arc<dyn Branch>) -> u32 {
    let answer = output(branch.call(&call(Op::Action, r#"{"try":"version"}"#), &host()).await);
    answer.as_str().unwrap().strip_prefix("version-").unwrap().parse().unwrap()
}

async fn pinned(registry: &Registry, pin: &Pin) -> u32 {
    version_of(registry.find(pin, Op::Action).unwrap()).await
}

fn pin(registry: &Registry) -> Pin {
    registry.pin("wasm://chaos/try", Op::Action).unwrap().unwrap()
}

fn collect(registry: &Registry) {
    registry.collect(registry.unreferenced());
}

fn publish(registry: &Registry, version: u32) {
    registry.publish("chaos", &chaos_v(version)).unwrap();
}

#[tokio::test]
async fn a_file_counts_once_it_stays_the_same() {
    let world = World::new();
    let plugins = world.start();
    assert_eq!(current(&plugins).await, None);
    world.put("chaos", &chaos_v(1)[..1000]);
    plugins.look();
    world.put("chaos", &chaos_v(1));
    plugins.look();
    assert!(plugins.refused().is_empty() && current(&plugins).await.is_none(), "it may still be being copied");
    plugins.look();
    assert_eq!(current(&plugins).await, Some(1));
    world.put("chaos", &chaos_v(2));
    plugins.look();
    assert_eq!(current(&plugins).await, Some(1));
    plugins.look();
    assert_eq!(current(&plugins).await, Some(2));
}

#[tokio::test]
async fn a_file_that_is_no_plugin_changes_nothing_until_it_is_mended() {
    let world = World::new();
    world.put("chaos", &chaos_v(1));
    let plugins = world.start();
    world.put("chaos", b"\0asm\x01\0\0\0");
    plugins.look();
    plugins.look();
    assert_eq!(current(&plugins).await, Some(1));
    let refused = &plugins.refused()[0];
    assert_eq!(refused.file, world.file("chaos"));
    assert!(matches!(refused.error, PublishError::Component(ComponentError::CoreModule { .. })), "{refused}");
    for version in [1, 2] {
        world.put("chaos", &chaos_v(version));
        plugins.look();
        plugins.look();
        assert_eq!((current(&plugins).await, plugins.refused().len()), (Some(version), 0));
        world.put("chaos", b"");
        plugins.look();
        plugins.look();
        assert_eq!((current(&plugins).await, plugins.refused().len()), (Some(version), 1));
    }
    fs::remove_file(world.file("chaos")).unwrap();
    plugins.look();
    plugins.look();
    assert_eq!((current(&plugins).await, plugins.refused().len()), (None, 0));
}

#[tokio::test]
async fn a_file_that_is_gone_for_a_moment_changes_nothing() {
    let world = World::new();
    world.put("chaos", &chaos_v(1));
    let plugins = world.start();
    for version in [1, 2] {
        fs::remove_file(world.file("chaos")).unwrap();
        plugins.look();
        assert!(current(&plugins).await.is_some(), "it may be about to be replaced");
        world.put("chaos", &chaos_v(version));
        plugins.look();
        plugins.look();
        assert_eq!(current(&plugins).await, Some(version));
    }
}

#[tokio::test]
async fn what_was_current_is_so_after_a_restart_unless_its_file_says_otherwise() {
    let world = World::new();
    world.put("chaos", &chaos_v(1));
    publish(&world.start(), 2);
    // A power cut may do this to a file that was copied there and never synced.
    world.put("chaos", b"");
    let plugins = world.start();
    assert_eq!((current(&plugins).await, plugins.refused().len()), (Some(2), 1));
    drop(plugins);
    // What it is mounted from may be late.
    let (folder, elsewhere) = (world.dir.path().join("plugins"), world.dir.path().join("elsewhere"));
    fs::rename(&folder, &elsewhere).unwrap();
    assert_eq!(current(&world.start()).await, Some(2));
    fs::rename(&elsewhere, &folder).unwrap();
    world.put("chaos", &chaos_v(1));
    assert_eq!(current(&world.start()).await, Some(1));
    fs::remove_file(world.file("chaos")).unwrap();
    assert_eq!(current(&world.start()).await, None);
    fs::rename(&folder, &elsewhere).unwrap();
    assert_eq!(current(&world.start()).await, None, "it was taken away, and stays so");
}

#[tokio::test]
async fn all_operations_of_a_saga_are_pinned_at_one_moment() {
    let world = World::new();
    let plugins = Arc::new(world.start());
    publish(&plugins, 1);
    let publisher = std::thread::spawn({
        let plugins = plugins.clone();
        move || (0..40).for_each(|turn| publish(&plugins, turn % 2))
    });
    let branch_ops = || (0..1000).map(|step| (BranchOp { step, op: Op::Action }, "wasm://chaos/try"));
    let mut seen = std::collections::HashSet::new();
    while !publisher.is_finished() {
        let pins = plugins.pin_all(branch_ops()).unwrap();
        assert_eq!(pins.components().len(), 1);
        seen.insert(pins.components()[0].clone());
        plugins.release(pins.components());
    }
    publisher.join().unwrap();
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn what_was_pinned_stays_and_what_was_refused_holds_nothing() {
    let world = World::with(|settings| settings.spare_versions = 0);
    let plugins = world.start();
    publish(&plugins, 1);
    let branch_op = |step| BranchOp { step, op: Op::Action };
    let held = plugins.pin_all([(branch_op(0), "wasm://chaos/try"), (branch_op(1), "wasm://chaos/try")]).unwrap();
    let (at, _) =
        plugins.pin_all([(branch_op(0), "wasm://chaos/try"), (branch_op(1), "wasm://other/try")]).unwrap_err();
    assert_eq!(at, branch_op(1));
    publish(&plugins, 2);
    collect(&plugins);
    assert_eq!(pinned(&plugins, &held.components()[0]).await, 1);
    plugins.release(held.components());
    collect(&plugins);
    assert_eq!(world.kept(), 1);
}

#[tokio::test]
async fn a_plugin_whose_file_is_gone_is_there_for_old_sagas_only() {
    let world = World::new();
    world.put("chaos", &chaos_v(1));
    let plugins = world.start();
    let old = pin(&plugins);
    plugins.hold(std::slice::from_ref(&old));
    fs::remove_file(world.file("chaos")).unwrap();
    plugins.look();
    plugins.look();
    let gone = plugins.resolve("wasm://chaos/try", Op::Action).err().unwrap();
    assert!(matches!(gone, address::Error::UnknownPlugin { .. }), "{gone}");
    let by_digest = format!("wasm://chaos@{}/try", version(old.digest));
    let gone = plugins.pin(&by_digest, Op::Action).unwrap_err();
    assert!(matches!(gone, address::Error::UnknownPlugin { .. }), "{gone}");
    assert_eq!(pinned(&plugins, &old).await, 1);
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_takes_nothing_away() {
    let world = World::new();
    world.put("chaos", &chaos_v(1));
    let plugins = world.start();
    fs::rename(world.dir.path().join("plugins"), world.dir.path().join("elsewhere")).unwrap();
    plugins.look();
    plugins.look();
    assert_eq!((current(&plugins).await, plugins.refused().len()), (Some(1), 1));
    fs::rename(world.dir.path().join("elsewhere"), world.dir.path().join("plugins")).unwrap();
    plugins.look();
    assert_eq!((current(&plugins).await, plugins.refused().len()), (Some(1), 0));
}

#[tokio::test]
async fn what_is_published_is_current_at_once_and_after_a_restart() {
    let world = World::new();
    let plugins = world.start();
    let published = plugins.publish("chaos", &chaos_v(1)).unwrap();
    assert!(published.is_new && published.replaced.is_none());
    let first = pin(&plugins);
    let published = plugins.publish("chaos", &chaos_v(2)).unwrap();
    assert_eq!((published.is_new, published.replaced), (false, Some(first)));
    let published = plugins.publish("chaos", &chaos_v(2)).unwrap();
    assert_eq!((published.is_new, published.replaced), (false, None));
    plugins.look();
    assert_eq!(current(&plugins).await, Some(2));
    assert_eq!(fs::read(world.file("chaos")).unwrap(), chaos_v(2));
    drop(plugins);
    assert_eq!(current(&world.start()).await, Some(2));
}

#[tokio::test]
async fn what_cannot_be_published_changes_nothing() {
    let world = World::new();
    let plugins = world.start();
    publish(&plugins, 1);
    let refused = |name: &str, bytes: &[u8]| plugins.publish(name, bytes).err().unwrap();
    assert!(matches!(refused("chaos", b"(module)"), PublishError::Component(ComponentError::NotWasm)));
    assert!(matches!(refused("Chaos", &chaos_v(2)), PublishError::Component(ComponentError::Name(_))));
    assert!(matches!(refused("../chaos", &chaos_v(2)), PublishError::Component(ComponentError::Name(_))));
    // It could not be kept for the sagas that would use it.
    fs::write(world.dir.path().join("component_store/other"), "in the way").unwrap();
    assert!(matches!(refused("other", &chaos_v(2)), PublishError::NotKept(_)));
    // There is no room for its file.
    fs::create_dir(world.file("third")).unwrap();
    assert!(matches!(refused("third", &chaos_v(2)), PublishError::NotPlaced(_)));
    assert_eq!(current(&plugins).await, Some(1));
    assert_eq!(plugins.plugins().len(), 1);
    assert!(!world.file("other").exists());
    assert_eq!(fs::read_dir(world.dir.path().join("component_store/third")).unwrap().count(), 0, "nor is it kept");
    let before = plugins.versions();
    fs::remove_file(world.file("chaos")).unwrap();
    fs::create_dir(world.file("chaos")).unwrap();
    assert!(matches!(refused("chaos", &chaos_v(2)), PublishError::NotPlaced(_)));
    assert_eq!((plugins.versions(), world.kept()), (before, 1));
    fs::remove_dir(world.file("chaos")).unwrap();
    fs::rename(world.dir.path().join("plugins"), world.dir.path().join("elsewhere")).unwrap();
    assert_eq!(current(&world.start()).await, Some(1), "after a restart as well");
    fs::rename(world.dir.path().join("elsewhere"), world.dir.path().join("plugins")).unwrap();
    let left: Vec<_> =
        fs::read_dir(world.dir.path().join("plugins")).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left, ["third.wasm"], "no temporary file stays: {left:?}");
}

#[tokio::test]
async fn a_version_can_be_named_under_its_own_name_only() {
    let world = World::new();
    let plugins = world.start();
    publish(&plugins, 1);
    let old = pin(&plugins);
    publish(&plugins, 2);
    plugins.publish("other", &component("plugins", "service-a")).unwrap();
    let target = |name: &str| format!("wasm://{name}@{}/try", version(old.digest));
    assert_eq!(plugins.pin(&target("chaos"), Op::Action).unwrap(), Some(old.clone()));
    assert_eq!(version_of(plugins.resolve(&target("chaos"), Op::Action).unwrap().unwrap()).await, 1);
    // Another plugin's code must not run on this one's data.
    let refused = plugins.pin(&target("other"), Op::Action).unwrap_err();
    assert!(matches!(refused, address::Error::UnknownVersion { .. }), "{refused}");
    let known = version(plugins.plugin("other").unwrap().digest());
    assert!(refused.to_string().contains(&format!("it is in: {known}")), "{refused}");
    let refused = plugins.pin(&target("nobody"), Op::Action).unwrap_err();
    assert!(matches!(refused, address::Error::UnknownPlugin { .. }), "{refused}");
    let wrong = plugins.pin(&target("chaos"), Op::Compensate).unwrap_err();
    assert!(matches!(wrong, address::Error::WrongOperation { .. }), "{wrong}");
}

#[tokio::test]
async fn a_version_stays_as_long_as_somebody_holds_it_and_one_more_is_spare() {
    let world = World::new();
    let mut plugins = world.start();
    publish(&plugins, 1);
    let (first, holder) = (pin(&plugins), [pin(&plugins)]);
    plugins.hold(&holder);
    plugins.hold(&holder);
    for version in 2..=4 {
        publish(&plugins, version);
        collect(&plugins);
    }
    assert_eq!(world.kept(), 3, "1 is held, 3 is spare, 4 is current");
    plugins.release(&holder);
    collect(&plugins);
    assert_eq!(pinned(&plugins, &first).await, 1);
    drop(plugins);

    plugins = world.start();
    plugins.hold(&holder);
    collect(&plugins);
    assert_eq!((pinned(&plugins, &first).await, current(&plugins).await, world.kept()), (1, Some(4), 3));
    plugins.release(&holder);
    collect(&plugins);
    assert_eq!(world.kept(), 2);
    let gone = plugins.find(&first, Op::Action).err().unwrap();
    assert!(matches!(gone, address::Error::Lost { .. }), "{gone}");
    let versions: Vec<_> = plugins.versions().into_iter().map(|it| (it.is_current, it.sagas)).collect();
    assert_eq!(versions, [(true, 0), (false, 0)]);
}

#[tokio::test]
async fn a_version_that_was_used_since_it_was_found_superfluous_stays() {
    let world = World::with(|settings| settings.spare_versions = 0);
    let plugins = world.start();
    publish(&plugins, 1);
    let holder = [pin(&plugins)];
    plugins.hold(&holder);
    publish(&plugins, 2);
    plugins.release(&holder);
    for use_it in [
        &|| plugins.hold(&holder),
        // It was held and released: that it is not needed any more may not be on disk.
        &|| plugins.release(&holder),
        &|| publish(&plugins, 1),
    ] as [&dyn Fn(); 3]
    {
        let unreferenced = plugins.unreferenced();
        use_it();
        plugins.collect(unreferenced);
        assert_eq!(pinned(&plugins, &holder[0]).await, 1);
    }
    publish(&plugins, 2);
    collect(&plugins);
    assert_eq!(world.kept(), 1);
}

#[tokio::test]
async fn compiled_code_goes_with_its_component() {
    let world = World::with(|settings| settings.spare_versions = 0);
    let plugins = world.start();
    for version in 1..=3 {
        publish(&plugins, version);
        collect(&plugins);
        assert_eq!(fs::read_dir(world.dir.path().join("code")).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn what_is_no_plugin_leaves_no_compiled_code() {
    let world = World::new();
    let plugins = world.start();
    // A valid component that exports nothing.
    assert!(matches!(
        plugins.publish("chaos", b"\0asm\x0d\0\x01\0").err(),
        Some(PublishError::Component(ComponentError::WrongWorld { .. }))
    ));
    assert_eq!(fs::read_dir(world.dir.path().join("code")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_cannot_be_called_takes_no_spare_place() {
    let world = World::new();
    let plugins = world.start();
    (1..=3).for_each(|version| publish(&plugins, version));
    let second = plugins.versions()[1].pin.clone();
    drop(plugins);
    fs::write(world.dir.path().join(format!("component_store/chaos/{}.wasm", second.digest)), "damaged").unwrap();
    let plugins = world.start();
    collect(&plugins);
    let usable: Vec<_> = plugins.versions().into_iter().map(|it| it.fault.is_none()).collect();
    assert_eq!(usable, [true, true]);
}

#[tokio::test]
async fn there_is_a_limit_to_the_versions_of_a_plugin() {
    let world = World::new();
    let component_store = world.dir.path().join("component_store/chaos");
    fs::create_dir_all(&component_store).unwrap();
    for number in 0..99 {
        fs::write(component_store.join(format!("{number:064x}.wasm")), "damaged").unwrap();
    }
    let plugins = world.start();
    publish(&plugins, 1);
    let refused = plugins.publish("chaos", &chaos_v(2)).err().unwrap();
    assert!(matches!(refused, PublishError::TooManyVersions), "{refused}");
    publish(&plugins, 1);
    collect(&plugins);
    publish(&plugins, 2);
}

#[tokio::test]
async fn a_component_that_is_lost_is_said_to_be_and_found_when_it_is_back() {
    let world = World::new();
    let plugins = world.start();
    publish(&plugins, 1);
    let old = pin(&plugins);
    publish(&plugins, 2);
    drop(plugins);
    let kept = world.dir.path().join(format!("component_store/chaos/{}.wasm", old.digest));
    for damage in [None, Some(b"damaged".as_slice())] {
        fs::remove_file(&kept).unwrap();
        if let Some(damaged) = damage {
            fs::write(&kept, damaged).unwrap();
        }
        let plugins = world.start();
        plugins.hold(std::slice::from_ref(&old));
        plugins.look();
        let lost = plugins.find(&old, Op::Action).err().unwrap().to_string();
        assert!(lost.contains(&old.digest.to_string()) && lost.contains(kept.to_str().unwrap()), "{lost}");
        assert!(plugins.versions()[1].fault.is_some());
        fs::write(&kept, chaos_v(1)).unwrap();
        plugins.look_for_lost();
        assert_eq!(pinned(&plugins, &old).await, 1);
        assert_eq!(plugins.versions()[1].sagas, 1);
    }
}
