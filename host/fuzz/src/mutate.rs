//! New inputs from known ones. The mutations are those of AFL's "havoc" stage (M. Zalewski, afl-fuzz): several small
//! changes on top of each other.

use fastrand::Rng;

/// Most changes of one input.
const CHANGES_MAX: usize = 8;

/// Longest piece that is removed, repeated or moved at once, in bytes, except in a splice.
const PIECE_MAX: usize = 64;

/// Numbers at which code often goes wrong.
const NUMBERS: [u64; 18] = [
    0,
    1,
    2,
    16,
    32,
    63,
    64,
    100,
    127,
    128,
    255,
    256,
    1_000,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
];

/// Makes inputs from a corpus.
#[derive(Debug)]
pub(crate) struct Mutator<'a> {
    corpus: &'a [Vec<u8>],
    tokens: &'a [Vec<u8>],
    bytes_max: usize,
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(corpus: &'a [Vec<u8>], tokens: &'a [Vec<u8>], bytes_max: usize) -> Self {
        Self { corpus, tokens, bytes_max }
    }

    /// The input with this number: the same for the same seed, whatever was made before.
    pub(crate) fn input(&self, seed: u64, number: u64) -> Vec<u8> {
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number));
        let mut input = rng.choice(self.corpus).cloned().unwrap_or_default();
        for _ in 0..rng.usize(1..=CHANGES_MAX) {
            self.change(&mut rng, &mut input);
        }
        input.truncate(self.bytes_max);
        input
    }

    fn change(&self, rng: &mut Rng, input: &mut Vec<u8>) {
        let at = rng.usize(..=input.len());
        let piece = (rng.usize(..=input.len() - at)).min(rng.usize(1..=PIECE_MAX));
        match rng.u8(..12) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << rng.u8(..8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = rng.u8(..);
                }
            }
            2 => drop(input.drain(at..at + piece)),
            3 => {
                let bytes: Vec<u8> = (0..rng.usize(1..=8)).map(|_| rng.u8(..)).collect();
                insert(input, at, &bytes);
            }
            4 => {
                let repeated = input[at..at + piece].repeat(rng.usize(1..=16));
                insert(input, at, &repeated);
            }
            5 => {
                let moved: Vec<u8> = input.drain(at..at + piece).collect();
                let to = rng.usize(..=input.len());
                insert(input, to, &moved);
            }
            6 => overwrite(input, at, &number(rng)),
            7 => insert(input, at, &number(rng)),
            8 => {
                let token = rng.choice(self.tokens).cloned().unwrap_or_default();
                insert(input, at, &token);
            }
            9 => {
                let token = rng.choice(self.tokens).cloned().unwrap_or_default();
                overwrite(input, at, &token);
            }
            10 => {
                let other = rng.choice(self.corpus).cloned().unwrap_or_default();
                let from = rng.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.truncate(at),
        }
    }
}

/// One of [`NUMBERS`], or one beside it, in one of the ways in which formats write numbers.
fn number(rng: &mut Rng) -> Vec<u8> {
    let number = NUMBERS[rng.usize(..NUMBERS.len())];
    let number = if rng.bool() { number } else { number.wrapping_neg() };
    let bytes = number.to_le_bytes();
    let width = 1 << rng.u8(..4);
    match rng.u8(..4) {
        0 => bytes[..width].to_vec(),
        1 => bytes[..width].iter().rev().copied().collect(),
        2 => varint(number),
        _ => number.cast_signed().to_string().into_bytes(),
    }
}

/// As protocol buffers and postcard write it: seven bits a byte, the lowest first.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
    bytes
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

fn overwrite(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = (at + bytes.len()).min(input.len());
    input.splice(at..end, bytes.iter().copied());
}

/// FNV-1a (Fowler, Noll, Vo): names files.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
