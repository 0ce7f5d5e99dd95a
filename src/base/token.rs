//! What an event is about: kind, index and generation in one word, so that a stale event is recognised.

/// Who handles the event; the event loop matches on it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The guest link.
    Link = 1,
    /// A TCP flow's host socket.
    Tcp = 2,
    /// A UDP flow's host socket.
    Udp = 3,
    /// A ping socket.
    Icmp = 4,
    /// A listening TCP socket on the host.
    ListenTcp = 5,
    /// A bound UDP socket on the host that waits for first datagrams.
    ListenUdp = 6,
    /// signalfd.
    Signal = 7,
    /// What tells that the namespace is gone (pidfd or inotify).
    Quit = 8,
    /// Gateway timers (periodic router advertisement).
    Gateway = 9,
    /// The host's neighbour table changed.
    Neighbours = 10,
    /// A spliced TCP connection: the socket that was accepted ...
    SpliceClient = 11,
    /// ... and the one that was connected in the other namespace.
    SpliceTarget = 12,
    /// A spliced UDP flow: the socket towards whoever began it ...
    SpliceUdpClient = 13,
    /// ... and the one in the other namespace.
    SpliceUdpTarget = 14,
    /// A bound UDP socket in the guest's namespace that waits for first datagrams.
    SpliceListenUdp = 15,
    /// Time to see which ports are in use, for forwarding that follows them.
    Scan = 16,
    /// The socket for requests of other programs.
    Api = 17,
    /// A client there.
    ApiClient = 18,
    /// Time for a line of statistics.
    Stats = 19,
    /// Where clients of the guest link connect.
    Plug = 20,
    /// A ring of the guest link.
    Ring = 21,
    /// Messages of other workers.
    Crew = 22,
    /// Requests of the control thread.
    Desk = 23,
    /// The host's network changed.
    Follow = 24,
}

impl Kind {
    const ALL: [Kind; 24] = [
        Kind::Link,
        Kind::Tcp,
        Kind::Udp,
        Kind::Icmp,
        Kind::ListenTcp,
        Kind::ListenUdp,
        Kind::Signal,
        Kind::Quit,
        Kind::Gateway,
        Kind::Neighbours,
        Kind::SpliceClient,
        Kind::SpliceTarget,
        Kind::SpliceUdpClient,
        Kind::SpliceUdpTarget,
        Kind::SpliceListenUdp,
        Kind::Scan,
        Kind::Api,
        Kind::ApiClient,
        Kind::Stats,
        Kind::Plug,
        Kind::Ring,
        Kind::Crew,
        Kind::Desk,
        Kind::Follow,
    ];
}

/// Kind (8 bits), generation (24 bits), index (32 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub kind: Kind,
    /// Which use of the slot; wraps at 2^24.
    pub generation: u32,
    pub index: u32,
}

impl Token {
    pub const GENERATIONS: u32 = 1 << 24;

    pub fn new(kind: Kind, index: u32, generation: u32) -> Token {
        Token { kind, generation: generation % Self::GENERATIONS, index }
    }

    /// For the one-of-a-kind sources.
    pub fn only(kind: Kind) -> Token {
        Token::new(kind, 0, 0)
    }

    pub fn to_usize(self) -> usize {
        ((self.kind as u64) << 56 | u64::from(self.generation) << 32 | u64::from(self.index)) as usize
    }

    /// `None` if the number was not made by [`Token::to_usize`].
    pub fn from_usize(word: usize) -> Option<Token> {
        let word = word as u64;
        let kind = (word >> 56) as u8;
        let kind = Kind::ALL.into_iter().find(|k| *k as u8 == kind)?;
        Some(Token::new(kind, word as u32, (word >> 32) as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_round_trip() {
        for kind in Kind::ALL {
            let t = Token::new(kind, 0xdead_beef, 0xff_ffff);
            assert_eq!(Token::from_usize(t.to_usize()), Some(t));
        }
        assert_eq!(Token::from_usize(0), None);
    }
}
