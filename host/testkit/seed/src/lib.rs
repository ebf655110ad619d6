//! Seeds of randomised tests.
//!
//! A randomised test takes its seed from here. The seed is printed, and cargo shows what a test printed when it fails:
//! `WASAGA_SEED=<that seed>` then runs the same choices again. A loop in a shell with `WASAGA_SEED=$RANDOM` searches
//! for longer than one run does.
//!
//! This is a crate of its own because the tests of saga and store need it and must not wait for wasmtime.

/// The variable that overrides the seed of every randomised test.
pub const VARIABLE: &str = "WASAGA_SEED";

/// The seed of a test: `WASAGA_SEED` if it is set, else `default`. Prints it.
///
/// # Panics
/// If the variable is set to something other than an unsigned 64-bit number.
pub fn seed(default: u64) -> u64 {
    let seed = parse(std::env::var(VARIABLE).ok().as_deref(), default);
    println!("{VARIABLE}={seed}");
    seed
}

/// The seeds of a test that makes `count` runs: `WASAGA_SEED` or 0, and those that follow.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let first = seed(0);
    (0..count).map(move |run| first.wrapping_add(run))
}

/// The random numbers of a test that follow from [`seed`].
pub fn rng(default: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed(default))
}

fn parse(text: Option<&str>, default: u64) -> u64 {
    text.map_or(default, |text| {
        text.parse().unwrap_or_else(|error| panic!("{VARIABLE}={text:?} is not an unsigned number: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_overrides_default() {
        assert_eq!(parse(None, 7), 7);
        assert_eq!(parse(Some("18446744073709551615"), 7), u64::MAX);
    }

    #[test]
    #[should_panic(expected = "not an unsigned number")]
    fn variable_must_be_a_number() {
        parse(Some("twelve"), 7);
    }

    #[test]
    fn same_seed_gives_same_numbers() {
        let numbers = |mut rng: fastrand::Rng| [rng.u64(..), rng.u64(..)];
        assert_eq!(numbers(rng(7)), numbers(rng(7)));
    }
}
