//! What a service manager hands to those whom it starts: a socket to tell it how things are (sd_notify(3)), and sockets that
//! it listens at already (sd_listen_fds(3)). Any program may do the same.
//!
//! System calls: socket, setsockopt, connect, getsockopt, getsockname, getpid at the start; sendto later.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};

use super::process;

/// The way to the service manager. It stays open, for where no file can be found any more.
#[derive(Debug, Default)]
pub struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// To whom the environment names, if anybody.
    ///
    /// # Errors
    /// The address and why nobody is reached there.
    pub fn open() -> Result<Notifier, (OsString, io::Error)> {
        match std::env::var_os(NOTIFY_SOCKET).filter(|address| !address.is_empty()) {
            None => Ok(Notifier(None)),
            Some(address) => Notifier::connect(&address).map_err(|e| (address, e)),
        }
    }

    /// A path, or `@` and an abstract name.
    fn connect(address: &OsStr) -> io::Result<Notifier> {
        let to = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => return Err(io::Error::other("it is neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&to)?;
        // A manager that is too busy to read must not stop a guest's traffic for long.
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Notifier(Some(socket)))
    }

    /// Sends assignments, one a line.
    ///
    /// # Errors
    /// The kernel's.
    pub fn tell(&self, lines: &str) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |socket| socket.send(lines.as_bytes()).map(drop))
    }
}

/// A descriptor from the service manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    pub fd: RawFd,
    /// `None`: it was given no name of its own.
    pub name: Option<String>,
}

/// The descriptors that the environment says are for this process.
///
/// # Errors
/// A number of them that is none: the text.
pub fn passed() -> Result<Vec<Passed>, String> {
    let of = |name| std::env::var_os(name).map(|value: OsString| value.to_string_lossy().into_owned());
    let (Some(pid), Some(count)) = (of("LISTEN_PID"), of("LISTEN_FDS")) else { return Ok(Vec::new()) };
    if pid.parse() != Ok(std::process::id()) {
        // Somebody between the manager and us kept them.
        return Ok(Vec::new());
    }
    list(&count, of("LISTEN_FDNAMES").as_deref().unwrap_or_default())
}

fn list(count: &str, names: &str) -> Result<Vec<Passed>, String> {
    let number = count.parse::<u8>().map_err(|_| count.to_owned())?;
    let mut names = names.split(':');
    // A name that nobody chose is the .socket file's, or one of these words.
    let chosen = |name: &&str| !matches!(*name, "" | "unknown" | "stored" | "connection") && !name.ends_with(".socket");
    let one = |n: u8| Passed { fd: FIRST + RawFd::from(n), name: names.next().filter(chosen).map(Into::into) };
    Ok((0..number).map(one).collect())
}

/// A descriptor of our own for a UNIX stream socket at which this one listens.
///
/// # Errors
/// A sentence without its subject: what is wrong with it.
pub fn listener(fd: RawFd) -> Result<UnixListener, &'static str> {
    let own: OwnedFd = process::adopt_descriptor(fd).map_err(|_| "is not open")?;
    let kind = getsockopt(&own.as_fd(), sockopt::SockType).map_err(|_| "is no socket")?;
    let address = getsockname::<SockaddrStorage>(own.as_raw_fd()).map_err(|_| "is no socket")?;
    if address.family() != Some(AddressFamily::Unix) {
        return Err("is no UNIX socket");
    }
    if kind != SockType::Stream {
        return Err("is no stream socket");
    }
    match getsockopt(&own.as_fd(), sockopt::AcceptConn) {
        Ok(true) => Ok(own.into()),
        _ => Err("does not listen"),
    }
}

/// Removes all that was for us from the environment, so that nobody whom we start takes it for theirs.
///
/// To be called while the process has one thread.
pub fn forget() {
    for name in [NOTIFY_SOCKET, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"] {
        // SAFETY: by this function's contract no other thread reads the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const PATIENCE: Duration = Duration::from_millis(500);
/// `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn paths_and_abstract_names_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("spelt-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let cases = [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into()),
        ];
        for (manager, address) in cases {
            Notifier::connect(&address).unwrap().tell("READY=1\nSTATUS=well\n").unwrap();
            let mut room = [0; 64];
            let len = manager.recv(&mut room).unwrap();
            assert_eq!(&room[..len], b"READY=1\nSTATUS=well\n");
        }
        for address in ["vsock:2:1", "relative", "/no/such/socket"] {
            assert!(Notifier::connect(OsStr::new(address)).is_err(), "{address}");
        }
        assert!(Notifier::default().tell("READY=1").is_ok());
    }

    #[test]
    fn descriptors_are_counted_from_three() {
        let names = |count, names| {
            list(count, names).unwrap().into_iter().map(|p| (p.fd, p.name.unwrap_or_default())).collect::<Vec<_>>()
        };
        assert_eq!(names("0", ""), []);
        assert_eq!(names("1", ""), [(3, String::new())]);
        assert_eq!(names("1", "spelt.socket"), [(3, String::new())]);
        assert_eq!(names("3", "vm:unknown"), [(3, "vm".into()), (4, String::new()), (5, String::new())]);
        for count in ["", "-1", "x", "1000"] {
            assert_eq!(list(count, ""), Err(count.into()));
        }
    }

    #[test]
    fn only_listening_streams_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(dir.path().join("s")).unwrap();
        let taken = listener(unix.as_raw_fd()).unwrap();
        assert_eq!(taken.local_addr().unwrap().as_pathname(), Some(&*dir.path().join("s")));
        let (stream, _other) = UnixStream::pair().unwrap();
        let datagram = UnixDatagram::bind(dir.path().join("d")).unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        for (fd, wrong) in [
            (stream.as_raw_fd(), "does not listen"),
            (datagram.as_raw_fd(), "is no stream socket"),
            (tcp.as_raw_fd(), "is no UNIX socket"),
            (null.as_raw_fd(), "is no socket"),
            (1_000_000, "is not open"),
        ] {
            assert_eq!(listener(fd).unwrap_err(), wrong);
        }
    }
}
