//! Fuzz target: the check of components before any library reads them.

use wasaga_fuzz::Target;

use super::check;

/// A refusal is short, and nothing else happens: whether what is accepted is valid is for the engine.
#[test]
fn fuzz_components() {
    let component = |text: &str| wat::parse_str(text).unwrap();
    Target::new("components")
        .seed(component("(component)"))
        .seed(component(
            "(component (core module (func (param i32) (local i64 i64) nop) (data \"x\") (table 3 funcref)))",
        ))
        .seed(component(
            "(component (type (record (field \"a\" (list (tuple u8 string))))) (import \"f\" (func (param \"x\" u8))) \
             (component (type (instance (type (func)) (export \"g\" (func (type 0)))))))",
        ))
        .tokens([
            &b"\x00asm\x0d\x00\x01\x00"[..],
            b"\x00asm\x01\x00\x00\x00",
            b"\x41\x01\x01",
            b"\x42",
            b"\xff\xff\xff\xff\x0f",
            b"\x70",
            b"\x80",
        ])
        .bytes_max(4096)
        .run(|input| {
            if let Err(refused) = check(input) {
                assert!(refused.to_string().len() <= 1100, "{refused}");
            }
        });
}
