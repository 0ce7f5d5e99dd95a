//! Taking clients from a listening socket.

use std::io;
use std::os::fd::AsFd;

use socket2::{Domain, Socket, Type};

use super::Listener;
use crate::base::Endpoint;
use crate::sys::{is_exhaustion, socket};

/// What accepting once brought.
#[derive(Debug)]
pub enum Accepted {
    Client(Socket, Endpoint),
    /// No descriptor was left: the client was reset.
    Turned,
    /// Nobody is waiting.
    Empty,
    /// Somebody may be waiting whom the host has no descriptor or memory for. No event will tell when it has.
    Stuck,
}

/// Accepts clients, with a descriptor in reserve: of nothing, for a copy of a listening socket's would keep that alive.
#[derive(Debug)]
pub struct Acceptor {
    spare: Option<Socket>,
    /// Times that somebody was looked for.
    pub looks: u64,
}

impl Acceptor {
    /// # Errors
    /// When there is no descriptor even now.
    pub fn new() -> io::Result<Acceptor> {
        Ok(Acceptor { spare: Some(nothing()?), looks: 0 })
    }

    /// Takes the next waiting client.
    pub fn accept(&mut self, listener: &Listener) -> Accepted {
        self.looks += 1;
        loop {
            match accept4(&listener.socket) {
                Ok(client) => {
                    self.spare = self.spare.take().or_else(|| nothing().ok());
                    return client;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Accepted::Empty,
                Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    if self.spare.take().is_none() {
                        return Accepted::Stuck;
                    }
                    let turned = accept4(&listener.socket);
                    if let Ok(Accepted::Client(s, _)) = &turned {
                        let _ = socket::set_reset_on_close(s.as_fd());
                    }
                    let done = match &turned {
                        // The kernel looks for a descriptor first: that nobody waits is known only now.
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Accepted::Empty,
                        Err(e) if is_exhaustion(e) => Accepted::Stuck,
                        _ => Accepted::Turned,
                    };
                    drop(turned);
                    // Where the host has run out, not only we, others may have taken it.
                    self.spare = nothing().ok();
                    return done;
                }
                Err(e) if is_exhaustion(&e) => return Accepted::Stuck,
                // A client that is gone already (accept(2)): look at the next.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO)) => {}
                Err(_) => return Accepted::Empty,
            }
        }
    }
}

fn nothing() -> io::Result<Socket> {
    socket::open(Domain::UNIX, Type::DGRAM, None)
}

fn accept4(listener: &Socket) -> io::Result<Accepted> {
    let (client, from) = socket::accept(listener)?;
    let from = from.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(Accepted::Client(client, from.into()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use nix::sys::resource::{Resource, setrlimit};
    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;
    use crate::fwd::{Proto, Side};
    use crate::listen::ForwardId;
    use crate::sys::process::{self, Fork};

    fn listener() -> Listener {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Listener {
            socket: socket.into(),
            proto: Proto::Tcp,
            on: Side::Host,
            port: 0,
            target_port: 0,
            target: None,
            forward: ForwardId::from_number(1).unwrap(),
        }
    }

    fn client(of: &Listener) -> TcpStream {
        TcpStream::connect(of.socket.local_addr().unwrap().as_socket().unwrap()).unwrap()
    }

    /// The rest of this process is not to be without descriptors: a child is.
    #[test]
    fn without_descriptors_clients_are_turned_away_until_there_are_none() {
        let listener = listener();
        let _clients = [client(&listener), client(&listener)];
        let mut acceptor = Acceptor::new().unwrap();
        let spare = acceptor.spare.as_ref().unwrap().as_raw_fd() as u64;
        // The child makes system calls, takes no lock, and leaves at once.
        let child = match process::fork().unwrap() {
            Fork::Child => {
                let mut done = setrlimit(Resource::RLIMIT_NOFILE, spare + 1, spare + 1).is_ok();
                while let Ok(fd) = nix::unistd::dup(&listener.socket) {
                    std::mem::forget(fd);
                }
                done &= matches!(acceptor.accept(&listener), Accepted::Turned);
                done &= matches!(acceptor.accept(&listener), Accepted::Turned);
                done &= matches!(acceptor.accept(&listener), Accepted::Empty);
                done &= acceptor.spare.is_some();
                process::exit_now(i32::from(!done))
            }
            Fork::Parent(child) => child,
        };
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    }

    #[test]
    fn a_lost_spare_is_replaced() {
        let listener = listener();
        let _client = client(&listener);
        let mut acceptor = Acceptor { spare: None, looks: 0 };
        assert!(matches!(acceptor.accept(&listener), Accepted::Client(..)));
        assert!(acceptor.spare.is_some());
        assert!(matches!(acceptor.accept(&listener), Accepted::Empty));
    }
}
