//! Components that were made to end the host, or to take all of its memory or time. Each is refused with a reason, a good one
//! beside it works, and what the compiler did not survive is not compiled again.

use std::{fs, os::unix::fs::PermissionsExt, time::Instant};

use tempfile::TempDir;
use wasaga::plugin::{Code, CompileLimits, Compiler, ComponentError, Plugin, PublishError};

use super::{
    made::{functions, leb128, plugin, section, sections, tangle},
    *,
};

/// A host that compiles in processes of its own, with a cache.
struct Host {
    dir: TempDir,
    settings: Settings,
}

impl Host {
    fn new(compile: CompileLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let compiler = Compiler::Child { program: env!("CARGO_BIN_EXE_wasaga").into() };
        let cache_dir = Some(dir.path().join("code"));
        let settings = Settings { compiler, compile, cache_dir, slots: 1, ..Settings::default() };
        Self { dir, settings }
    }

    /// The same host with another compiler: a script.
    fn with_script(mut self, script: &str) -> Self {
        let program = self.dir.path().join("compiler");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        self.settings.compiler = Compiler::Child { program };
        self
    }

    /// A component, loaded by a new host over the same cache.
    fn load(&self, bytes: &[u8]) -> Result<Arc<Plugin>, ComponentError> {
        Plugin::load(&Runtime::new(&self.settings).unwrap(), "p", bytes)
    }

    /// The refusals on disk.
    fn refusals(&self) -> usize {
        let files = fs::read_dir(self.dir.path().join("code")).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "refused")).count()
    }
}

/// Refuses a component that is beside a good one, for a reason with these words.
async fn assert_refused(bytes: &[u8], words: &[&str]) {
    let host = Host::new(CompileLimits::default());
    let plugins = host.dir.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::write(plugins.join("bad.wasm"), bytes).unwrap();
    fs::write(plugins.join("good.wasm"), component("plugins", "service-a")).unwrap();
    let registry = load(&host.settings, &plugins);
    assert_eq!(output(try_(&registry, "good", &json!({})).await), Value::Null);
    let refused = registry.refused();
    let [refused] = &*refused else { panic!("{refused:?}") };
    for word in words {
        assert!(refused.to_string().contains(word), "no {word:?} in {refused}");
    }
    // The same bytes by upload.
    let Err(PublishError::Component(error)) = registry.publish("other", bytes) else { panic!("it was published") };
    assert!(refused.to_string().ends_with(&error.to_string()), "{error}");
    assert_eq!(output(try_(&registry, "good", &json!({})).await), Value::Null);
}

/// A component with a type of this kind that declares such a type, and so on.
fn nested(kind: u8, depth: usize) -> Vec<u8> {
    let declared = [[kind, 1, 1].repeat(depth - 1), vec![kind, 0]].concat();
    sections(&section(7, &[&[1], &*declared].concat()))
}

#[tokio::test]
async fn nested_component_types() {
    for depth in [1_240, 1_000_000] {
        assert_refused(&nested(0x41, depth), &["nested more than 32 deep", "divide it"]).await;
    }
}

#[tokio::test]
async fn nested_instance_types() {
    for depth in [1_240, 1_000_000] {
        assert_refused(&nested(0x42, depth), &["nested more than 32 deep", "divide it"]).await;
    }
}

#[tokio::test]
async fn nested_value_types() {
    let list = |below: usize| if below == 0 { vec![0x70, 0x7d] } else { [&[0x70], &*leb128(below - 1)].concat() };
    let types = [leb128(10_000), (0..10_000).flat_map(list).collect()].concat();
    assert_refused(&sections(&section(7, &types)), &["types are nested more than 100 deep"]).await;
}

#[tokio::test]
async fn nested_components() {
    let components = (0..2_000).fold(sections(&[]), |inner, _| sections(&section(4, &inner)));
    assert_refused(&components, &["components are nested more than 16 deep"]).await;
    let side_by_side = sections(&section(4, &sections(&[])).repeat(5_000));
    assert_refused(&side_by_side, &["more than 500 modules and components"]).await;
}

#[tokio::test]
async fn a_hundred_thousand_functions() {
    assert_refused(&functions(100_000), &["more than 50000 functions"]).await;
}

#[tokio::test]
async fn one_giant_function() {
    let giant = plugin("", &format!("(func {})", "(drop (i32.const 1))".repeat(400_000)), "");
    assert_refused(&giant, &["a function has 1200002 bytes of code, more than 1048576"]).await;
}

#[tokio::test]
async fn huge_tables_of_types() {
    let core = "(type (func (param i32)))\n".repeat(100_000);
    assert_refused(&plugin("", &core, ""), &["more than 20000 types"]).await;
    let primitive = [leb128(1_000_000), vec![0x7d; 1_000_000]].concat();
    assert_refused(&sections(&section(7, &primitive)), &["more than 20000 types"]).await;
}

#[test]
fn compiling_that_takes_too_much_memory_is_ended_and_not_repeated() {
    let limits = CompileLimits { memory_bytes: 200 << 20, ..CompileLimits::default() };
    let (host, bomb) = (Host::new(limits), tangle(6_000, 1_500));
    let error = host.load(&bomb).err().unwrap().to_string();
    assert!(error.contains("more than 209715200 bytes of memory ([plugins.compile] memory_bytes)"), "{error}");
    assert_eq!(host.refusals(), 1);
    // The next host starts no compiler for it, but for all others.
    let mut host = host.with_script("kill -TERM $$");
    assert_eq!(host.load(&bomb).err().unwrap().to_string(), error);
    let other = [&*bomb, b"\0\x02\x01v"].concat();
    assert!(matches!(host.load(&other), Err(ComponentError::Compiler(_))));
    // Other limits, another try.
    host.settings.compile.memory_bytes *= 2;
    assert!(matches!(host.load(&bomb), Err(ComponentError::Compiler(_))));
}

#[test]
fn compiling_that_takes_too_much_processor_time_is_ended() {
    let host = Host::new(CompileLimits { cpu: Duration::from_secs(1), ..CompileLimits::default() });
    let error = host.load(&tangle(8_000, 2_000)).err().unwrap().to_string();
    assert!(error.contains("more than 1s of processor time ([plugins.compile] cpu)"), "{error}");
    assert_eq!(host.refusals(), 1);
}

#[test]
fn compiling_that_takes_too_long_is_ended() {
    let host = Host::new(CompileLimits { time: Duration::from_millis(50), ..CompileLimits::default() });
    let host = host.with_script("exec sleep 600");
    let started = Instant::now();
    let error = host.load(&component("plugins", "service-a")).err().unwrap().to_string();
    assert!(error.contains("longer than 50ms ([plugins.compile] time)"), "{error}");
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(host.refusals(), 0, "the machine may have been busy: the next start tries again");
}

/// A crash is of the component; what a person or the system does to the compiler is not.
#[test]
fn a_compiler_that_ends_is_told_from_one_that_is_ended() {
    let good = component("plugins", "service-a");
    for (script, words, refusals) in [
        ("echo 'thread has overflowed its stack' >&2; kill -ABRT $$", "signal: 6 (SIGABRT)", 1),
        ("kill -SEGV $$", "signal: 11 (SIGSEGV)", 1),
        ("echo 'panicked at x' >&2; exit 101", "exit status: 101): panicked at x", 1),
        ("kill -KILL $$", "signal: 9 (SIGKILL)", 0),
        ("kill -TERM $$", "the compiler ended with signal: 15", 0),
        ("echo 'unrecognized subcommand' >&2; exit 2", "exit status: 2: unrecognized subcommand", 0),
        ("echo nonsense >&2", "no wasaga of this version: it wrote \"nonsense\"", 0),
    ] {
        let host = Host::new(CompileLimits::default()).with_script(script);
        let error = host.load(&good).err().unwrap();
        assert!(error.to_string().contains(words), "no {words:?} in {error}");
        assert_eq!(host.refusals(), refusals, "{script}");
        assert_eq!(error.is_of_system(), refusals == 0 && !words.contains("SIGKILL"), "{script}");
    }
}

#[test]
fn only_what_a_compiler_of_this_version_wrote_is_used() {
    let good = component("plugins", "service-a");
    let report = r#"{"outcome":"Compiled","cost":{"cpu":{"secs":0,"nanos":0},"memory_bytes":0}}"#;
    let script = format!("head -c 100000 /dev/zero; echo '{report}' >&2");
    let host = Host::new(CompileLimits::default()).with_script(&script);
    let error = host.load(&good).err().unwrap();
    assert!(error.to_string().contains("not whole, or of another version"), "{error}");
    assert!(error.is_of_system());
    let mut nobody = host;
    nobody.settings.compiler = Compiler::Child { program: nobody.dir.path().join("gone") };
    assert!(nobody.load(&good).err().unwrap().is_of_system());
}

#[tokio::test]
async fn a_process_compiles_what_the_host_runs_and_says_what_it_took() {
    let mut host = Host::new(CompileLimits::default());
    let plugins = host.dir.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::write(plugins.join("good.wasm"), component("plugins", "service-a")).unwrap();
    for code in [Code::Compiled, Code::Cached, Code::Compiled] {
        let registry = load(&host.settings, &plugins);
        assert_eq!(output(try_(&registry, "good", &json!({})).await), Value::Null);
        let good = registry.plugin("good").unwrap();
        assert_eq!((good.code(), good.compile_cost().is_some()), (code, code == Code::Compiled));
        if let Some(cost) = good.compile_cost() {
            assert!(!cost.cpu.is_zero() && cost.memory_bytes > 1 << 20, "{cost:?}");
        }
        if code == Code::Cached {
            host.settings.cache_dir = None;
        }
    }
    let files: Vec<_> = fs::read_dir(host.dir.path().join("code")).unwrap().collect();
    assert_eq!(files.len(), 1, "the compiler's files are gone: {files:?}");
}

#[test]
fn a_component_for_the_asynchronous_model_is_named_as_such() {
    let stream = wat::parse_str("(component (type (stream u8)))").unwrap();
    let host = Host::new(CompileLimits::default());
    for settings in [host.settings.clone(), Settings::default()] {
        let runtime = Runtime::new(&settings).unwrap();
        let error = Plugin::load(&runtime, "p", &stream).err().unwrap();
        assert!(matches!(error, ComponentError::Async { .. }), "{error}");
        let text = error.to_string();
        for word in ["WASI 0.3", "runs WASI 0.2", "--target wasm32-wasip2"] {
            assert!(text.contains(word) && !text.contains("damaged"), "{text}");
        }
    }
    assert_eq!(host.refusals(), 0);
}
