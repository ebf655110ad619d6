use std::fs;

use super::{Refused, check, limits};

/// The first bytes of a component.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// A LEB128 number.
fn leb128(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn section(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind], &*leb128(content.len() as u64), content].concat()
}

/// A section of `count` equal things.
fn many(kind: u8, count: u64, thing: &[u8]) -> Vec<u8> {
    section(kind, &[leb128(count), thing.repeat(usize::try_from(count).unwrap())].concat())
}

fn component_of(sections: &[u8]) -> Vec<u8> {
    [COMPONENT, sections].concat()
}

/// A component with one module.
fn module_of(sections: &[u8]) -> Vec<u8> {
    component_of(&section(1, &[b"\0asm\x01\0\0\0", sections].concat()))
}

/// A component with a type of this kind that declares such a type, and so on.
fn declarations(kind: u8, depth: usize) -> Vec<u8> {
    let declared = [[kind, 1, 1].repeat(depth - 1), vec![kind, 0]].concat();
    component_of(&section(7, &[&[1], &*declared].concat()))
}

fn components(depth: usize) -> Vec<u8> {
    (1..depth).fold(component_of(&[]), |inner, _| component_of(&section(4, &inner)))
}

/// A component with `list<list<... u8 ...>>`.
fn lists(depth: u64) -> Vec<u8> {
    let types =
        (0..depth).map(|below| if below == 0 { vec![0x70, 0x7d] } else { [&[0x70], &*leb128(below - 1)].concat() });
    component_of(&section(7, &[leb128(depth), types.flatten().collect()].concat()))
}

/// A component with a function that has so many bytes of code and locals.
fn function(bytes: usize, locals: u64) -> Vec<u8> {
    let locals = [&[2], &*leb128(locals), &[0x7f, 0, 0x7f]].concat();
    let body = [&*locals, &*vec![1; bytes - locals.len()]].concat();
    module_of(&section(10, &[&[1], &*leb128(body.len() as u64), &body].concat()))
}

#[test]
fn branches_of_all_languages_pass() {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
    let mut count = 0;
    for folder in ["plugins", "fixtures", "languages/components"] {
        for file in fs::read_dir(format!("{target}/{folder}")).into_iter().flatten() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            assert_eq!(check(&bytes), Ok(()));
            count += 1;
        }
    }
    assert!(count > 0, "run `make plugins`");
}

#[test]
fn depths_have_limits() {
    let deep = |what, limit: usize| Err(Refused::TooDeep { what, limit });
    let limit = limits::DECLARATION_DEPTH;
    for kind in [0x41, 0x42] {
        assert_eq!(check(&declarations(kind, limit)), Ok(()));
        for depth in [limit + 1, 1_240, 1_000_000] {
            let what = "declarations of component and instance types";
            assert_eq!(check(&declarations(kind, depth)), deep(what, limit));
        }
    }
    let limit = limits::COMPONENT_DEPTH;
    assert_eq!(check(&components(limit)), Ok(()));
    for depth in [limit + 1, 2_000] {
        assert_eq!(check(&components(depth)), deep("components", limit));
    }
    let limit = limits::TYPE_DEPTH;
    assert_eq!(check(&lists(limit.into())), Ok(()));
    for depth in [u64::from(limit) + 1, 10_000] {
        assert_eq!(check(&lists(depth)), deep("types", limit.into()));
    }
}

/// Types that nest by their numbers, each in a declaration of its own.
#[test]
fn types_nest_through_aliases_exports_and_imports() {
    // An instance type with an alias of a type further out, which it exports under a name.
    let next = |number: u64| [&[0x42, 2, 2, 3, 2, 1], &*leb128(number), &[4, 0, 1, b'a', 3, 0, 0]].concat();
    let types = |depth: u64| -> Vec<u8> {
        let types = std::iter::once(vec![0x42, 0]).chain((1..depth).map(|number| next(number - 1)));
        [leb128(depth), types.flatten().collect()].concat()
    };
    let limit: u64 = limits::TYPE_DEPTH.into();
    assert_eq!(check(&component_of(&section(7, &types(limit)))), Ok(()));
    let too_deep = Err(Refused::TooDeep { what: "types", limit: limits::TYPE_DEPTH.into() });
    assert_eq!(check(&component_of(&section(7, &types(limit + 1)))), too_deep);
    // The deepest type, exported and imported, and a list of that.
    let number = leb128(limit - 1);
    let exported = section(11, &[&[1, 0, 1, b'a', 3], &*number, &[0]].concat());
    let imported = section(10, &[&[1, 0, 1, b'b', 3, 0], &*number].concat());
    let list = section(7, &[&[1, 0x70], &*leb128(limit + 1)].concat());
    let all = |list: &[u8]| component_of(&[&*section(7, &types(limit)), &exported, &imported, list].concat());
    assert_eq!(check(&all(&[])), Ok(()));
    assert_eq!(check(&all(&list)), too_deep);
}

#[test]
fn numbers_have_limits() {
    let more = |what, limit| Err(Refused::TooMany { what, limit });
    // A function type, an import of a function, a function, an export.
    let cases: [(u8, &[u8], &str, u32); 5] = [
        (1, &[0x60, 0, 0], "types", limits::TYPES),
        (2, &[0, 0, 0, 0], "imports", limits::IMPORTS),
        (3, &[0], "functions", limits::FUNCTIONS),
        (7, &[0, 0, 0], "exports", limits::EXPORTS),
        (11, &[1, 0], "segments of data", limits::DATA_SEGMENTS),
    ];
    for (kind, thing, what, limit) in cases {
        let count = u64::from(limit);
        assert_eq!(check(&module_of(&many(kind, count, thing))), Ok(()), "{what}");
        assert_eq!(check(&module_of(&many(kind, count + 1, thing))), more(what, limit));
        // In two modules.
        let halves = [module_of(&many(kind, count, thing)), module_of(&many(kind, 1, thing))];
        let both = component_of(&[&halves[0][COMPONENT.len()..], &halves[1][COMPONENT.len()..]].concat());
        assert_eq!(check(&both), more(what, limit), "in two modules");
    }
    assert_eq!(check(&component_of(&many(7, 20_001, &[0x7d]))), more("types", limits::TYPES));
    assert_eq!(check(&component_of(&many(3, 20_001, &[0x60, 0, 0]))), more("types", limits::TYPES));
    let parts = component_of(&section(4, COMPONENT).repeat(501));
    assert_eq!(check(&parts), more("modules and components", limits::PARTS));
    // A number that the bytes cannot keep.
    let claims = section(7, &leb128(u32::MAX.into()));
    assert!(matches!(check(&component_of(&claims)), Err(Refused::Unreadable { .. })));
}

#[test]
fn functions_have_limits() {
    let limit = limits::FUNCTION_BYTES as usize;
    assert_eq!(check(&function(limit, limits::LOCALS)), Ok(()));
    let more = |what, found, limit| Err(Refused::Function { what, found, limit });
    assert_eq!(check(&function(limit + 1, 0)), more("bytes of code", limit as u64 + 1, limit as u64));
    let limit = limits::LOCALS;
    assert_eq!(check(&function(100, limit + 1)), more("local variables", limit + 1, limit));
    assert_eq!(check(&function(100, u32::MAX.into())), more("local variables", u32::MAX.into(), limit));
}

/// What passes is not necessarily valid, but nothing panics and nothing takes long.
#[test]
fn damaged_and_cut_components_are_read_to_their_end_or_refused() {
    let whole = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/plugins/account.wasm")).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..2_000 {
        let mut bytes = whole.clone();
        for _ in 0..random.usize(1..4) {
            let end = if random.bool() { 4_096 } else { bytes.len() };
            let at = random.usize(..end);
            bytes[at] = random.u8(..);
        }
        if random.bool() {
            bytes.truncate(random.usize(..bytes.len()));
        }
        let _ = check(&bytes);
    }
    assert!(check(&whole[..whole.len() / 2]).is_err());
    assert!(check(&[]).is_err());
}
