//! Which worker has a flow, for packets that reach another one.
//!
//! A worker asks only about flows that it does not have itself. So a packet that arrives where its flow is takes no lock; one
//! that begins a flow takes an uncontended one or two, beside the system calls for a socket.

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use super::KeySecret;

/// The flows of all workers. A flow is known by a keyed 64-bit hash: that two have the same one will not happen.
#[derive(Debug)]
pub struct Directory {
    secret: KeySecret,
    shards: Vec<Mutex<HashTable<(u64, u8)>>>,
}

/// Locks among which the flows are divided, so that workers seldom want the same one.
const SHARDS: usize = 64;

impl Directory {
    pub fn new(secret: KeySecret) -> Directory {
        Directory { secret, shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashTable<(u64, u8)>> {
        // Entries are whole after each statement.
        self.shards[(hash >> 32) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's view of the flows of one protocol.
#[derive(Clone, Debug)]
pub struct Share {
    directory: Arc<Directory>,
    worker: u8,
    protocol: u8,
}

impl Share {
    /// `protocol`: its number in IP packets.
    pub fn new(directory: &Arc<Directory>, worker: usize, protocol: u8) -> Share {
        Share { directory: directory.clone(), worker: worker as u8, protocol }
    }

    /// Another worker, if one has the flow.
    pub fn other(&self, key: &impl Hash) -> Option<usize> {
        let hash = self.hash(key);
        let shard = self.directory.shard(hash);
        self.unless_ours(shard.find(hash, |(h, _)| *h == hash)?.1)
    }

    /// Another worker, if one has the flow; if nobody has, `heir` has it from now on.
    pub fn claim(&self, key: &impl Hash, heir: usize) -> Option<usize> {
        let hash = self.hash(key);
        let mut shard = self.directory.shard(hash);
        let entry = shard.entry(hash, |(h, _)| *h == hash, |(h, _)| *h).or_insert((hash, heir as u8));
        self.unless_ours(entry.get().1)
    }

    pub fn worker(&self) -> usize {
        self.worker.into()
    }

    /// The flow is ours, whoever had it.
    pub fn take(&self, key: &impl Hash) {
        self.give(key, self.worker.into());
    }

    /// From now on `worker` has the flow.
    pub fn give(&self, key: &impl Hash, worker: usize) {
        let hash = self.hash(key);
        let mut shard = self.directory.shard(hash);
        let mut entry = shard.entry(hash, |(h, _)| *h == hash, |(h, _)| *h).or_insert((hash, 0));
        entry.get_mut().1 = worker as u8;
    }

    /// Nobody has the flow, if we had it.
    pub fn release(&self, key: &impl Hash) {
        let hash = self.hash(key);
        let mut shard = self.directory.shard(hash);
        if let Ok(entry) = shard.find_entry(hash, |(h, worker)| *h == hash && *worker == self.worker) {
            entry.remove();
        }
    }

    fn unless_ours(&self, worker: u8) -> Option<usize> {
        (worker != self.worker).then_some(worker.into())
    }

    fn hash(&self, key: &impl Hash) -> u64 {
        self.directory.secret.hash(&(self.protocol, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_who_claims_has_it() {
        let directory = Arc::new(Directory::new(KeySecret::fixed([3; 16])));
        let share = |worker, protocol| Share::new(&directory, worker, protocol);
        let (a, b) = (share(0, 6), share(1, 6));
        assert_eq!((a.other(&7), a.claim(&7, 0), a.claim(&7, 1)), (None, None, None));
        assert_eq!((b.other(&7), b.claim(&7, 1), share(1, 17).claim(&7, 1)), (Some(0), Some(0), None));
        b.release(&7);
        assert_eq!(b.other(&7), Some(0));
        a.give(&7, 1);
        a.release(&7);
        assert_eq!((a.other(&7), b.other(&7)), (Some(1), None));
        b.release(&7);
        assert_eq!((a.claim(&7, 1), b.other(&7)), (Some(1), None));
    }

    #[test]
    fn of_many_who_claim_at_once_one_has_it() {
        let directory = Arc::new(Directory::new(KeySecret::fixed([3; 16])));
        let shares: Vec<Share> = (0..4).map(|worker| Share::new(&directory, worker, 6)).collect();
        let mut winners = vec![0; 1000];
        let claims: Vec<Vec<bool>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (shares.iter())
                .map(|share| {
                    scope.spawn(|| (0..1000u32).map(|key| share.claim(&key, share.worker()).is_none()).collect())
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        for won in claims {
            winners.iter_mut().zip(won).for_each(|(n, won)| *n += u32::from(won));
        }
        assert!(winners.iter().all(|n| *n == 1));
    }
}
