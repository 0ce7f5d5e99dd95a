//! Taking clients from a listening socket.

use std::io;

use socket2::{Domain, Socket, Type};

use super::Listener;
use crate::base::Endpoint;

/// What accepting once brought.
#[derive(Debug)]
pub enum Accepted {
    Client(Socket, Endpoint),
    /// No descriptor was left: the client was reset.
    Turned,
    /// Nobody is waiting.
    Empty,
}

/// Accepts clients, with a descriptor in reserve: of nothing, for a copy of a listening socket's would keep that alive.
#[derive(Debug)]
pub struct Acceptor {
    spare: Option<Socket>,
}

impl Acceptor {
    /// # Errors
    /// When there is no descriptor even now.
    pub fn new() -> io::Result<Acceptor> {
        Ok(Acceptor { spare: Some(nothing()?) })
    }

    /// Takes the next waiting client.
    pub fn accept(&mut self, listener: &Listener) -> Accepted {
        loop {
            match accept4(&listener.socket) {
                Ok(client) => return client,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Accepted::Empty,
                Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    if self.spare.take().is_none() {
                        return Accepted::Empty;
                    }
                    if let Ok(Accepted::Client(s, _)) = accept4(&listener.socket) {
                        let _ = s.set_linger(Some(std::time::Duration::ZERO));
                    }
                    self.spare = nothing().ok();
                    return Accepted::Turned;
                }
                // A client that is gone already (accept(2)), or no memory for it: look at the next.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO)) => {}
                Err(_) => return Accepted::Empty,
            }
        }
    }
}

fn nothing() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)
}

fn accept4(socket: &Socket) -> io::Result<Accepted> {
    let (client, from) = socket.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)?;
    let from = from.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(Accepted::Client(client, from.into()))
}
