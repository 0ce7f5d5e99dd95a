//! What engines and event loop tell each other about sockets with something to do.

/// What an event said about a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    pub readable: bool,
    /// The socket's error queue has something.
    pub error: bool,
}

impl From<&mio::event::Event> for Ready {
    fn from(e: &mio::event::Event) -> Ready {
        Ready { readable: e.is_readable(), error: e.is_error() }
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
