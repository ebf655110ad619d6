//! The components that a saga runs on: chosen when it is first stored, and kept when plugins are replaced later.

use std::{fmt, str::FromStr};

use crate::definition::{BranchOp, Op};

/// SHA-256 of a component. Displays itself in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is the SHA-256 of a component: 64 hexadecimal digits in lower case")]
pub struct NoDigest;

impl FromStr for Digest {
    type Err = NoDigest;

    /// Lower case only: a digest has a single spelling.
    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let digits: &[u8; 64] = text.as_bytes().try_into().map_err(|_| NoDigest)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = pair.map(digit);
            *byte = high.ok_or(NoDigest)? << 4 | low.ok_or(NoDigest)?;
        }
        Ok(Self(bytes))
    }
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

/// A component, under the name of its plugin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin {
    pub plugin: Box<str>,
    pub digest: Digest,
}

/// The component of each operation of a saga. Operations of services, and those without an address, have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    components: Vec<Pin>,
    /// By step, action before compensation: the number of its component, from 1; 0, or missing at the end: none.
    numbers: Vec<u16>,
}

impl Pins {
    /// Pins as they were stored: see [`Pins::components`] and [`Pins::numbers`].
    pub fn from_stored(components: Vec<Pin>, numbers: Vec<u16>) -> Self {
        Self { components, numbers }
    }

    /// Sets the component of the operation.
    pub fn set(&mut self, branch_op: BranchOp, pin: Pin) {
        let number = self.components.iter().position(|known| *known == pin).unwrap_or_else(|| {
            self.components.push(pin);
            self.components.len() - 1
        });
        let at = index(branch_op);
        if self.numbers.len() <= at {
            self.numbers.resize(at + 1, 0);
        }
        if let Some(entry) = self.numbers.get_mut(at) {
            // A saga has 2000 operations at most, and no more components than operations.
            *entry = u16::try_from(number + 1).unwrap_or(u16::MAX);
        }
    }

    /// The component of the operation.
    pub fn get(&self, branch_op: BranchOp) -> Option<&Pin> {
        let number = usize::from(*self.numbers.get(index(branch_op))?);
        self.components.get(number.checked_sub(1)?)
    }

    /// Whether no operation has a component.
    pub fn is_empty(&self) -> bool {
        self.components.is_empty()
    }

    /// All components, each once, in the order of their first use.
    pub fn components(&self) -> &[Pin] {
        &self.components
    }

    /// By step, action before compensation: the number of its component, from 1; 0, or missing at the end: none.
    pub fn numbers(&self) -> &[u16] {
        &self.numbers
    }
}

fn index(branch_op: BranchOp) -> usize {
    branch_op.step * 2 + usize::from(branch_op.op == Op::Compensate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_one_spelling() {
        let digest = Digest(std::array::from_fn(|i| u8::try_from(i * 8).unwrap()));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().to_uppercase().parse::<Digest>(), Err(NoDigest));
        assert_eq!(digest.to_string()[1..].parse::<Digest>(), Err(NoDigest));
        assert_eq!("g".repeat(64).parse::<Digest>(), Err(NoDigest));
    }

    #[test]
    fn each_component_is_kept_once() {
        let pin = |plugin: &str| Pin { plugin: plugin.into(), digest: Digest([7; 32]) };
        let branch_op = |step, op| BranchOp { step, op };
        let mut pins = Pins::default();
        pins.set(branch_op(1, Op::Action), pin("a"));
        pins.set(branch_op(1, Op::Compensate), pin("b"));
        pins.set(branch_op(2, Op::Action), pin("a"));
        assert_eq!(pins.components(), [pin("a"), pin("b")]);
        assert_eq!(pins.get(branch_op(0, Op::Action)), None);
        assert_eq!(pins.get(branch_op(1, Op::Action)), Some(&pin("a")));
        assert_eq!(pins.get(branch_op(1, Op::Compensate)), Some(&pin("b")));
        assert_eq!(pins.get(branch_op(2, Op::Action)), Some(&pin("a")));
        assert_eq!(pins.get(branch_op(2, Op::Compensate)), None);
        assert_eq!(pins.get(branch_op(9, Op::Action)), None);
    }
}
