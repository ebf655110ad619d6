//! Components that no compiler would make.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A component of the world `wasaga:saga/plugin` whose module has these imports and this text, and whose `try` does `try_`
/// with the locals `$i` and `$h`.
pub fn plugin(imports: &str, text: &str, try_: &str) -> Vec<u8> {
    let params = |count: usize| "i32 ".repeat(count);
    // `try` has the fields of a call as its parameters, `cancel` what `tried` is as well.
    let text = format!(
        r#"(module
            {imports}
            (memory (export "memory") 2)
            {text}
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8))
            (func (export "wasaga:saga/branch@0.1.0#try") (param {}) (result i32) (local $i i32) (local $h i32)
                {try_} (i32.const 0))
            (func (export "wasaga:saga/branch@0.1.0#cancel") (param {}) (result i32) (i32.const 0)))"#,
        params(13),
        params(16),
    );
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")).unwrap();
    let world = resolve.select_world(&[package], Some("plugin")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// A component with so many empty functions.
pub fn functions(count: usize) -> Vec<u8> {
    plugin("", &"(func)\n".repeat(count), "")
}

/// A component with one function whose compilation takes time and memory by the square of its size: `branches` that change
/// `locals`. With 8,000 and 2,000 it takes 2 GB and 8 s of processor time.
pub fn tangle(branches: u32, locals: u32) -> Vec<u8> {
    let branch = |i: u32| {
        format!(
            "(if (i32.and (local.get 0) (i32.const {})) (then (local.set {} (i64.add (local.get {}) (i64.const {i})))))",
            1_u32 << (i % 30),
            1 + i % locals,
            1 + i * 7 % locals,
        )
    };
    let store = |i: u32| format!("(i64.store (i32.const {}) (local.get {}))", 8 * i % 60_000, 1 + i);
    let text = format!(
        "(func (param i32) (local {}) (loop $l {} (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) {})",
        "i64 ".repeat(locals as usize),
        (0..branches).map(branch).collect::<String>(),
        (0..locals).map(store).collect::<String>(),
    );
    plugin("", &text, "")
}

/// A component that consists of these sections.
pub fn sections(sections: &[u8]) -> Vec<u8> {
    [b"\0asm\x0d\0\x01\0", sections].concat()
}

/// A section of a component or a module.
pub fn section(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind], &*leb128(content.len()), content].concat()
}

/// A number as the binary format has it.
pub fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
