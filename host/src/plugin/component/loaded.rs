//! Compiles and checks a component: every error that a component can have is found here, once, and not in an attempt.

use std::path::Path;

use wasmtime::component::{Component, ComponentExportIndex, InstancePre, types::ComponentItem};

use super::{error::Error, precheck};
use crate::{
    files,
    plugin::{
        contract,
        limits::Limits,
        name::digest,
        sandbox::{
            compile::{Cost, Fault},
            guest::Guest,
            runtime::Runtime,
        },
    },
    saga::{Digest, Op},
};

/// A component that is ready to be called.
pub struct Loaded {
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Bytes of the file.
    pub size: u64,
    pub code: Code,
    /// What compiling it took, if a process of its own compiled it now.
    pub cost: Option<Cost>,
    /// The interfaces that it imports, with versions.
    pub imports: Box<[Box<str>]>,
    /// Prepared for instances: its imports are linked.
    pub instance: InstancePre<Guest>,
    pub try_: ComponentExportIndex,
    pub cancel: ComponentExportIndex,
}

/// Where the machine code of a plugin came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Compiled now.
    Compiled,
    /// Read from the cache.
    Cached,
}

impl Loaded {
    /// Compiles (or finds compiled) and checks a component.
    pub fn new(runtime: &Runtime, bytes: &[u8]) -> Result<Self, Error> {
        check_kind(bytes, runtime.limits())?;
        let digest = digest(bytes);
        let (component, code, cost) = compile(runtime, digest, bytes)?;
        let (try_, cancel) = exports(&component)?;
        let instance =
            runtime.linker().instantiate_pre(&component).map_err(|error| unknown_import(format!("{error:#}")))?;
        let ty = component.component_type();
        let imports = ty.imports(component.engine()).map(|(name, _)| name.into()).collect();
        // Saved after all checks: the code of an invalid component would never be removed.
        if code == Code::Compiled
            && let Some(cache) = runtime.cache()
            && let Err(error) = cache.save(digest, &component)
        {
            tracing::warn!("a compiled component is not kept: {error}");
        }
        Ok(Self { digest, size: bytes.len() as u64, code, cost, imports, instance, try_, cancel })
    }
}

/// Reads a component's file, but only one byte beyond the limit: [`Loaded::new`] then refuses it.
pub fn read(path: &Path, limits: &Limits) -> Result<Vec<u8>, Error> {
    files::read_regular_file(path, limits.component_bytes).map_err(Error::Unreadable)
}

/// The checks that need no compilation.
fn check_kind(bytes: &[u8], limits: &Limits) -> Result<(), Error> {
    let limit = limits.component_bytes;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { limit });
    }
    // Magic number, then version and layer, both little-endian 16 bits: layer 0 is a module, layer 1 a component.
    match bytes {
        [] => Err(Error::Empty),
        [b'\0', b'a', b's', b'm', _, _, 0, 0, ..] => Err(Error::CoreModule { mend: way_to_component(bytes) }),
        [b'\0', b'a', b's', b'm', ..] => Ok(()),
        _ => Err(Error::NotWasm),
    }
}

/// The command that makes a component of a module, by the sections that generators of bindings leave in it.
fn way_to_component(module: &[u8]) -> &'static str {
    let has = |word: &str| module.windows(word.len()).any(|window| window == word.as_bytes());
    match (has("component-type:"), has("wasi_snapshot_preview1")) {
        (true, true) => {
            "`wasm-tools component new IN.wasm --adapt wasi_snapshot_preview1.reactor.wasm -o OUT.wasm` makes one of it; in \
             Rust, build with `cargo build --release --target wasm32-wasip2` instead"
        }
        (true, false) => {
            "`wasm-tools component new IN.wasm -o OUT.wasm` makes one of it; in Rust, build with `cargo build --release \
             --target wasm32-wasip2` instead"
        }
        (false, _) => {
            "build it with `cargo build --release --target wasm32-wasip2` or `cargo component build --release`; in another \
             language, with the commands in the README that `wasaga plugin new NAME --lang LANGUAGE` writes"
        }
    }
}

fn compile(runtime: &Runtime, digest: Digest, bytes: &[u8]) -> Result<(Component, Code, Option<Cost>), Error> {
    if let Some(component) = runtime.cache().and_then(|cache| cache.load(runtime.engine(), digest)) {
        return Ok((component, Code::Cached, None));
    }
    precheck::check(bytes).map_err(|refused| match refused {
        precheck::Refused::Unreadable { .. } => Error::Invalid { detail: refused.to_string() },
        refused => Error::Precheck(refused),
    })?;
    match runtime.compile(digest, bytes) {
        Ok((component, cost)) => Ok((component, Code::Compiled, cost)),
        Err(Fault::Invalid(detail)) => Err(invalid(detail)),
        Err(Fault::Refused(refusal)) => Err(Error::NotCompiled { reason: refusal.reason }),
        Err(Fault::System(error)) => Err(Error::Compiler(error)),
    }
}

/// The engine's errors for a component that does not fit into its pool, and for one that needs WASI 0.3, have no types of
/// their own.
fn invalid(detail: String) -> Error {
    if detail.contains("pooling allocator") {
        Error::OverLimits { detail }
    } else if detail.contains("component model async") {
        Error::Async { detail }
    } else {
        Error::Invalid { detail }
    }
}

/// A component may import interfaces of WASI 0.3 and no more of it.
fn unknown_import(detail: String) -> Error {
    let is_async = detail.contains("wasi:") && detail.contains("@0.3.");
    if is_async { Error::Async { detail } } else { Error::UnknownImport { detail } }
}

/// Finds the two functions and compares their types with the host's.
fn exports(component: &Component) -> Result<(ComponentExportIndex, ComponentExportIndex), Error> {
    let interface = component.get_export_index(None, contract::INTERFACE).ok_or_else(|| {
        let ty = component.component_type();
        let names: Vec<String> = ty.exports(component.engine()).map(|(name, _)| name.to_owned()).collect();
        let without_version = |name: &str| name.split('@').next().map(ToOwned::to_owned);
        let is_ours = |name: &String| without_version(name) == without_version(contract::INTERFACE);
        match names.iter().find(|name| is_ours(name)) {
            Some(other) => Error::OtherVersion { exports: other.clone() },
            None if names.is_empty() => Error::WrongWorld { exports: "nothing".to_owned() },
            None => Error::WrongWorld { exports: names.join(", ") },
        }
    })?;
    let find = |op| {
        let function = contract::function(op);
        match component.get_export(Some(&interface), function) {
            Some((ComponentItem::ComponentFunc(ty), index)) => Ok((function, ty, index)),
            _ => Err(Error::MissingFunction { function }),
        }
    };
    let check = |function, checked: wasmtime::Result<()>| {
        checked.map_err(|error| Error::WrongType { function, detail: format!("{error:#}") })
    };
    let ty = component.component_type();
    let types = ty.instance_type();
    let (function, signature, try_) = find(Op::Action)?;
    check(function, signature.typecheck::<contract::TryParams, contract::TryResults>(&types))?;
    let (function, signature, cancel) = find(Op::Compensate)?;
    check(function, signature.typecheck::<contract::CancelParams, contract::CancelResults>(&types))?;
    Ok((try_, cancel))
}
