//! Numbers, names and lengths of the binary format.

use super::refused::Refused;

/// What reading yields, or why the component is refused.
pub type Result<T> = std::result::Result<T, Refused>;

/// A part of a file that is read from its beginning to its end.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// Where the part begins in the file.
    at: usize,
}

impl<'a> Reader<'a> {
    /// A whole file.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The place in the file, in bytes.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The error for what cannot be read here.
    pub fn unreadable<T>(&self, what: &'static str) -> Result<T> {
        Err(Refused::Unreadable { what, at: self.at })
    }

    /// The next bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.bytes.split_at_checked(length) else {
            return self.unreadable("the bytes end too early");
        };
        (self.bytes, self.at) = (rest, self.at.saturating_add(length));
        Ok(taken)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8> {
        let byte = self.peek()?;
        self.take(1)?;
        Ok(byte)
    }

    /// The next byte, which stays.
    pub fn peek(&self) -> Result<u8> {
        self.bytes.first().copied().map_or_else(|| self.unreadable("the bytes end too early"), Ok)
    }

    /// A LEB128 number of at most 32 bits without sign.
    pub fn u32(&mut self) -> Result<u32> {
        let before = *self;
        u32::try_from(self.leb128(5)?).or_else(|_| before.unreadable("a number is too large"))
    }

    /// Passes a LEB128 number of at most 33 bits with sign, and gives it as an index.
    pub fn index(&mut self) -> Result<u32> {
        let before = *self;
        let number = self.leb128(5)?;
        u32::try_from(number & 0x1_ffff_ffff).or_else(|_| before.unreadable("an index is negative"))
    }

    /// Passes a LEB128 number of at most 64 bits.
    pub fn pass_u64(&mut self) -> Result<()> {
        self.leb128(10).map(drop)
    }

    /// The bits of a LEB128 number of at most `bytes_max` bytes; those beyond the 64th are dropped.
    fn leb128(&mut self, bytes_max: u32) -> Result<u64> {
        let mut number = 0;
        for position in 0..bytes_max {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f).checked_shl(position * 7).unwrap_or_default();
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        self.unreadable("a number is too long")
    }

    /// Passes a name, or anything that follows its length.
    pub fn pass_name(&mut self) -> Result<()> {
        self.part().map(drop)
    }

    /// What follows its length.
    pub fn part(&mut self) -> Result<Self> {
        let length = self.u32()?;
        let at = self.at;
        // A length of 32 bits fits on all machines that the engine compiles for.
        Ok(Self { bytes: self.take(length as usize)?, at })
    }

    /// The kind and the content of a section.
    pub fn section(&mut self) -> Result<(u8, Self)> {
        Ok((self.byte()?, self.part()?))
    }
}
