//! From a file to a plugin: everything that can be wrong with a component is found here, once, and not at a call.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, types::ComponentItem};

use super::{
    contract,
    limits::Limits,
    registry::{PLUGINS_MAX, VERSIONS_MAX},
    runtime::{Guest, Runtime},
};
use crate::saga::{Digest, Op};

/// A component that is ready to be called.
pub struct Loaded {
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// Whether it had to be compiled.
    pub code: Code,
    /// What it imports, with versions.
    pub imports: Box<[Box<str>]>,
    pub(super) instance: InstancePre<Guest>,
    pub(super) try_: ComponentExportIndex,
    pub(super) cancel: ComponentExportIndex,
}

/// Where the machine code of a plugin came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Compiled now.
    Compiled,
    /// Compiled before, and read from the cache.
    Cached,
}

/// What is wrong with a file that should be a plugin, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The name would not work in an address.
    #[error("{}: rename the file", name_rule())]
    Name,
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It is a plugin, but sagas could not rely on it.
    #[error("cannot be kept for the sagas that will use it: {0}: see to the data folder of the host")]
    NotKept(io::Error),
    /// It is a plugin, but there is no place for it.
    #[error("cannot be put into the plugin folder: {0}: see to that folder of the host")]
    NotPlaced(io::Error),
    /// A limit.
    #[error(
        "the plugin has {VERSIONS_MAX} versions already, as many as there may be: `GET /api/v1/plugins/NAME` shows for how \
         many unfinished sagas each is kept; when some of those have ended, put it there again"
    )]
    TooManyVersions,
    /// A limit.
    #[error("the host has {PLUGINS_MAX} plugins already, as many as there may be: remove some from its plugin folder")]
    TooManyPlugins,
    /// Nothing in it.
    #[error("the file is empty: build or copy it again")]
    Empty,
    /// More bytes than the limit.
    #[error("the file has more than {limit} bytes (limit component_bytes): strip debug sections, or raise the limit")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// Something else altogether.
    #[error("this is not WebAssembly: a plugin is a component, built for example by `{BUILD}`")]
    NotWasm,
    /// A module, which is only the inside of a component.
    #[error("this is a core module, not a component: {mend}")]
    CoreModule {
        /// What makes one of it.
        mend: &'static str,
    },
    /// No attempt could ever start.
    #[error(
        "it needs more than the limits allow ({detail}): raise memory_bytes, memories, table_elements, tables or instances"
    )]
    OverLimits {
        /// What it needs.
        detail: String,
    },
    /// The engine cannot read it.
    #[error("this is no valid component ({detail}): if the file was cut short or damaged, build or copy it again")]
    Invalid {
        /// What the engine said.
        detail: String,
    },
    /// It is another world's.
    #[error(
        "it does not export {}, but {exports}: build it for the world wasaga:saga/plugin (or wasaga:saga/contained) in the \
         wit of this host, which `wasaga plugin new NAME --lang LANGUAGE` writes",
        contract::INTERFACE
    )]
    WrongWorld {
        /// What it does export.
        exports: String,
    },
    /// It was made from a contract that has changed since, or not yet.
    #[error(
        "it exports {exports}, and this host speaks {}: replace the wit that it was built with by that of this host, which \
         `wasaga plugin new NAME --lang LANGUAGE` writes, and build it again",
        contract::INTERFACE
    )]
    OtherVersion {
        /// What it does export.
        exports: String,
    },
    /// One of the two functions is not there.
    #[error(
        "its {} has no function `{function}`: add it, and build it for the world wasaga:saga/plugin of this host",
        contract::INTERFACE
    )]
    MissingFunction {
        /// The function.
        function: &'static str,
    },
    /// One of the two functions has another type.
    #[error(
        "its function `{function}` has another type than in this host's wit: build it for that wit again ({detail})"
    )]
    WrongType {
        /// The function.
        function: &'static str,
        /// The difference.
        detail: String,
    },
    /// Every attempt would fail.
    #[error(
        "it traps while it starts, before the first call ({detail}): see to what it does outside of try and cancel, such as \
         initialisers of globals"
    )]
    DoesNotStart {
        /// What happened.
        detail: String,
    },
    /// It needs something that the host does not offer.
    #[error(
        "it imports what this host does not offer ({detail}): plugins may import what the world wasaga:saga/plugin lists; \
         leave it out, or build it with the wit of this host, which `wasaga plugin new NAME --lang LANGUAGE` writes"
    )]
    UnknownImport {
        /// What it is.
        detail: String,
    },
}

/// The usual way to make a component.
const BUILD: &str = "cargo build --release --target wasm32-wasip2";

impl Loaded {
    /// Bytes of a plugin's name: as many as a label of a host name may have.
    pub const NAME_BYTES_MAX: usize = 63;

    /// Compiles (or finds compiled) and checks a component.
    pub fn new(runtime: &Runtime, bytes: &[u8]) -> Result<Self, Fault> {
        check_kind(bytes, runtime.limits())?;
        let digest = digest(bytes);
        let (component, code) = compile(runtime, digest, bytes)?;
        let (try_, cancel) = exports(&component)?;
        let instance = runtime
            .linker()
            .instantiate_pre(&component)
            .map_err(|error| Fault::UnknownImport { detail: format!("{error:#}") })?;
        let ty = component.component_type();
        let imports = ty.imports(component.engine()).map(|(name, _)| name.into()).collect();
        // Only now: code of what is no plugin would stay there for ever.
        if code == Code::Compiled
            && let Some(cache) = runtime.cache()
            && let Err(error) = cache.save(digest, &component)
        {
            tracing::warn!("a compiled component is not kept: {error}");
        }
        Ok(Self { digest, size: bytes.len() as u64, code, imports, instance, try_, cancel })
    }
}

/// The plugin's name: the file's name without `.wasm`.
pub fn name(path: &Path) -> Result<&str, Fault> {
    path.file_stem().and_then(|stem| stem.to_str()).filter(|name| is_name(name)).ok_or(Fault::Name)
}

/// What a plugin's name must be, for people.
pub fn name_rule() -> String {
    format!(
        "a plugin's name must consist of lowercase letters, digits, '-', '_' and '.', start with a letter or digit and have \
         at most {} characters",
        Loaded::NAME_BYTES_MAX
    )
}

/// Whether a plugin can have this name.
pub fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= Loaded::NAME_BYTES_MAX
        && name.starts_with(letter)
        && name.chars().all(|c| letter(c) || "-_.".contains(c))
}

/// What a component is known by.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// A file's bytes, or as many as show that they are too many.
pub fn read(path: &Path, limits: &Limits) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    regular_file(path)
        .and_then(|file| file.take(limits.component_bytes.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(Fault::Unreadable)?;
    Ok(bytes)
}

/// What can be told without compiling.
fn check_kind(bytes: &[u8], limits: &Limits) -> Result<(), Fault> {
    let limit = limits.component_bytes;
    if bytes.len() as u64 > limit {
        return Err(Fault::TooLarge { limit });
    }
    // Magic number, then version and layer, both little-endian 16 bits: layer 0 is a module, layer 1 a component.
    match bytes {
        [] => Err(Fault::Empty),
        [b'\0', b'a', b's', b'm', _, _, 0, 0, ..] => Err(Fault::CoreModule { mend: way_to_component(bytes) }),
        [b'\0', b'a', b's', b'm', ..] => Ok(()),
        _ => Err(Fault::NotWasm),
    }
}

/// What makes a component of a module. Bindings leave a section in it that says which one it is to become.
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

/// Opening anything else, a pipe for example, could wait for ever.
fn regular_file(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() {
        return File::open(path);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

fn compile(runtime: &Runtime, digest: Digest, bytes: &[u8]) -> Result<(Component, Code), Fault> {
    if let Some(component) = runtime.cache().and_then(|cache| cache.load(runtime.engine(), digest)) {
        return Ok((component, Code::Cached));
    }
    let compile = || Component::from_binary(runtime.engine(), bytes);
    Ok((runtime.compiling(compile).map_err(|error| invalid(&error))?, Code::Compiled))
}

/// The engine's error for what does not fit into its pool has no type of its own.
fn invalid(error: &wasmtime::Error) -> Fault {
    let detail = format!("{error:#}");
    if detail.contains("pooling allocator") { Fault::OverLimits { detail } } else { Fault::Invalid { detail } }
}

/// Finds the two functions and compares their types with the host's.
fn exports(component: &Component) -> Result<(ComponentExportIndex, ComponentExportIndex), Fault> {
    let interface = component.get_export_index(None, contract::INTERFACE).ok_or_else(|| {
        let ty = component.component_type();
        let names: Vec<String> = ty.exports(component.engine()).map(|(name, _)| name.to_owned()).collect();
        let without_version = |name: &str| name.split('@').next().map(ToOwned::to_owned);
        let is_ours = |name: &String| without_version(name) == without_version(contract::INTERFACE);
        match names.iter().find(|name| is_ours(name)) {
            Some(other) => Fault::OtherVersion { exports: other.clone() },
            None if names.is_empty() => Fault::WrongWorld { exports: "nothing".to_owned() },
            None => Fault::WrongWorld { exports: names.join(", ") },
        }
    })?;
    let find = |op| {
        let function = contract::function(op);
        match component.get_export(Some(&interface), function) {
            Some((ComponentItem::ComponentFunc(ty), index)) => Ok((function, ty, index)),
            _ => Err(Fault::MissingFunction { function }),
        }
    };
    let check = |function, checked: wasmtime::Result<()>| {
        checked.map_err(|error| Fault::WrongType { function, detail: format!("{error:#}") })
    };
    let ty = component.component_type();
    let types = ty.instance_type();
    let (function, signature, try_) = find(Op::Action)?;
    check(function, signature.typecheck::<contract::TryParams, contract::TryResults>(&types))?;
    let (function, signature, cancel) = find(Op::Compensate)?;
    check(function, signature.typecheck::<contract::CancelParams, contract::CancelResults>(&types))?;
    Ok((try_, cancel))
}
