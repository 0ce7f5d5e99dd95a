//! Requests of other programs to forward ports while we run, over a UNIX socket in the words of slirp4netns.
//!
//! *Goals.* Whoever may open the socket (the mode is the caller's umask) asks one thing per connection, in JSON, and gets
//! one answer. Nothing that a client does, slow, silent, faulty or hostile, delays traffic or another client, or takes more
//! than a fixed share of memory and descriptors.
//!
//! *States of a client.* Asking: until there is one whole JSON value, or the client has shut down its sending side, or the
//! request is too long. Answering: until the socket has taken the whole answer. Ending: our sending side is shut down, and
//! what the client may still send is thrown away until it closes, because closing a UNIX socket with unread bytes resets
//! the connection and may cost the client its answer.
//!
//! *Timers.* One per client, from accept to the end ([`LIFE`]); the event loop arms it.
//!
//! *Limits.* [`CLIENTS_MAX`] clients at a time, others wait in the listen queue; a request is shorter than
//! [`REQUEST_BYTES_MAX`]. The socket's file stays when the program ends: to remove it would need a directory of the host
//! kept open through the sandbox. A later instance with the same path replaces it.
//!
//! System calls: socket, bind, listen, stat, unlink (to bind); accept4, ioctl (`FIONBIO`), epoll_ctl, recvfrom, sendto,
//! shutdown, close.

mod client;
// Public for the fuzz targets, which have bytes that no client sends.
#[doc(hidden)]
pub mod codec;

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};

use crate::base::{Kind, Token};
use crate::fwd::ports::Rule;
use client::{Client, State};
use codec::{Request, Response};

pub use codec::{Guest, REQUEST_BYTES_MAX};

/// What carries out the requests.
pub trait Forwarder {
    /// Forwards the ports of `rule` from now on, and returns the number that it is known by.
    ///
    /// # Errors
    /// Why not, in a sentence.
    fn add(&mut self, rule: Rule) -> Result<u64, String>;

    /// Ends what [`Forwarder::add`] began. False if nothing is known by this number.
    fn remove(&mut self, id: u64) -> bool;

    /// What is forwarded now, in the order of numbers.
    fn list(&self) -> Vec<(u64, Rule)>;
}

/// Clients at a time.
pub const CLIENTS_MAX: usize = 16;
/// From a client's connection to its end.
pub const LIFE: Duration = Duration::from_secs(10);

/// The socket and its clients.
#[derive(Debug)]
pub struct Api {
    listener: UnixListener,
    guest: Guest,
    slots: [Slot; CLIENTS_MAX],
}

#[derive(Debug, Default)]
struct Slot {
    /// Which client of this slot it is: a late event or timer is not another's.
    generation: u32,
    client: Option<Client>,
}

impl Api {
    /// Listens at `path`. A socket of that name is replaced, anything else is not. `guest`: whose ports are asked for.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bind(path: &Path, guest: Guest) -> io::Result<Api> {
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
        if is_socket {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Api { listener, guest, slots: Default::default() })
    }

    /// Events come with [`Kind::Api`] from now on, those of clients with [`Kind::ApiClient`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn register(&self, registry: &Registry) -> io::Result<()> {
        let token = mio::Token(Token::only(Kind::Api).to_usize());
        registry.register(&mut SourceFd(&self.listener.as_raw_fd()), token, Interest::READABLE)
    }

    /// Takes a client that waits, if there is one and room for it. The token is to be woken after [`LIFE`]. To be called
    /// until it returns `None`, after an event of the listener and whenever a client has gone.
    pub fn accept(&mut self, registry: &Registry) -> Option<Token> {
        let free = self.slots.iter().position(|s| s.client.is_none())?;
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // Without a descriptor for it, it waits until the next one comes.
                Err(_) => return None,
            };
            let slot = &mut self.slots[free];
            slot.generation = (slot.generation + 1) % Token::GENERATIONS;
            let token = Token::new(Kind::ApiClient, free as u32, slot.generation);
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registered = stream.set_nonblocking(true).and_then(|()| {
                registry.register(&mut SourceFd(&stream.as_raw_fd()), mio::Token(token.to_usize()), interest)
            });
            if registered.is_ok() {
                slot.client = Some(Client::new(stream));
                return Some(token);
            }
        }
    }

    /// The client has something to say, or takes more of its answer. True if it has gone.
    pub fn serve(&mut self, token: Token, forwarder: &mut dyn Forwarder) -> bool {
        let Some(slot) = self.slot(token) else { return false };
        let Some(mut client) = slot.client.take() else { return false };
        if client.state == State::Asking
            && let Some(request) = client.ask(&self.guest)
        {
            client.answer(perform(request, forwarder).encode());
        }
        let gone = client.go_on();
        if !gone && let Some(slot) = self.slot(token) {
            slot.client = Some(client);
        }
        gone
    }

    /// The client's time is over. True if it was still there.
    pub fn expire(&mut self, token: Token) -> bool {
        self.slot(token).is_some_and(|s| s.client.take().is_some())
    }

    fn slot(&mut self, token: Token) -> Option<&mut Slot> {
        self.slots.get_mut(token.index as usize).filter(|s| s.generation == token.generation)
    }
}

fn perform(request: Result<Request, String>, forwarder: &mut dyn Forwarder) -> Response {
    match request {
        Err(what) => Response::Error(what),
        Ok(Request::List) => Response::List(forwarder.list()),
        Ok(Request::Add(rule)) => match forwarder.add(rule) {
            Ok(id) => Response::Added(id),
            Err(why) => Response::Error(format!("add_hostfwd: slirp_add_hostfwd failed: {why}")),
        },
        Ok(Request::Remove(id)) if forwarder.remove(id) => Response::Removed,
        Ok(Request::Remove(id)) => {
            Response::Error(format!("remove_hostfwd: bad arguments.id: nothing is forwarded by the id {id}"))
        }
    }
}

#[cfg(test)]
mod tests;
