//! A seeded stream of bytes that no two positions share, and a running hash of what arrived. Both work on 64-bit words
//! so that they cost less than the copy through a socket.

/// Bytes of the stream `seed`, from the first on.
pub struct Pattern {
    seed: u64,
    word: u64,
}

/// Bytes produced at a time: whole words, so that the stream does not depend on how it is cut.
pub const CHUNK_BYTES: usize = 128 * 1024;

impl Pattern {
    pub fn new(seed: u64) -> Pattern {
        Pattern { seed, word: 0 }
    }

    /// Fills `chunk`, whose length is a multiple of 8.
    pub fn fill(&mut self, chunk: &mut [u8]) {
        for bytes in chunk.chunks_exact_mut(8) {
            bytes.copy_from_slice(&mix(self.word.wrapping_mul(INCREMENT).wrapping_add(self.seed)).to_le_bytes());
            self.word += 1;
        }
    }
}

/// Hash of a stream, whatever the sizes of the pieces.
pub struct Hash {
    state: u64,
    /// Bytes of an unfinished word.
    rest: [u8; 8],
    len: u64,
}

impl Hash {
    pub fn new() -> Hash {
        Hash { state: 0, rest: [0; 8], len: 0 }
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        let held = (self.len % 8) as usize;
        self.len += bytes.len() as u64;
        if held > 0 {
            let take = bytes.len().min(8 - held);
            self.rest[held..held + take].copy_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if held + take < 8 {
                return;
            }
            self.word(self.rest);
        }
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.word(word.try_into().expect("chunks of eight"));
        }
        self.rest[..words.remainder().len()].copy_from_slice(words.remainder());
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn finish(mut self) -> u64 {
        let held = (self.len % 8) as usize;
        self.rest[held..].fill(0);
        self.word(self.rest);
        mix(self.state ^ self.len)
    }

    fn word(&mut self, word: [u8; 8]) {
        self.state = (self.state.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(INCREMENT);
    }
}

/// The finisher of SplitMix64: every input bit reaches every output bit.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The odd increment of SplitMix64.
pub const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;
