//! What engines and event loop tell each other about sockets with something to do.

/// What an event said about a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    pub readable: bool,
    pub writable: bool,
    /// The peer has shut down its sending side, or all is over.
    pub read_closed: bool,
    /// The socket has an error, or its error queue has something.
    pub error: bool,
    /// Urgent data is in a TCP socket's queue, or was.
    pub urgent: bool,
}

impl From<&mio::event::Event> for Ready {
    fn from(e: &mio::event::Event) -> Ready {
        Ready {
            readable: e.is_readable(),
            writable: e.is_writable(),
            read_closed: e.is_read_closed(),
            error: e.is_error(),
            urgent: e.is_priority(),
        }
    }
}

/// Whether an engine has queued itself, and for when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    Nothing,
    /// The next loop turn.
    Turn,
    /// When the link takes frames again.
    Link,
}

impl Pending {
    /// Of an engine with sockets that `wait` for another turn; `link_full`: for the link rather.
    pub fn of(wait: bool, link_full: bool) -> Pending {
        match (wait, link_full) {
            (false, _) => Pending::Nothing,
            (true, true) => Pending::Link,
            (true, false) => Pending::Turn,
        }
    }
}
