//! A flow as the guest sees it.

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use crate::base::Endpoint;

/// Both ends of a flow as they stand in the guest's packets. For echo flows both ports are the identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub guest: Endpoint,
    pub remote: Endpoint,
}

/// A per-process secret: a guest chooses the keys, so it must not be able to choose their hashes.
#[derive(Clone)]
pub struct KeySecret([u8; 16]);

impl KeySecret {
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn random() -> Result<KeySecret, getrandom::Error> {
        let mut k = [0; 16];
        getrandom::fill(&mut k)?;
        Ok(KeySecret(k))
    }

    pub const fn fixed(k: [u8; 16]) -> KeySecret {
        KeySecret(k)
    }

    pub fn hash(&self, key: &impl Hash) -> u64 {
        let mut h = SipHasher13::new_with_key(&self.0);
        key.hash(&mut h);
        h.finish()
    }
}

impl std::fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySecret")
    }
}
