//! Where a virtual machine is plugged in.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::unistd::{AccessFlags, eaccess};

use super::activation::path_of;
use crate::config::{Config, Personality, Plug};
use crate::control::place;
use crate::link::{Link, Socket, Tee, Vhost};
use crate::sys::process;
use crate::sys::unix::{self, Kind};

/// Opened while there are files.
pub enum Plugged {
    /// `None`: it has no path.
    Listening(UnixListener, Option<PathBuf>),
    Connected(OwnedFd, Kind),
}

impl Plugged {
    /// `passed`: where a service manager listens for us already.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(plug: &Plug, config: &Config, passed: Option<UnixListener>) -> anyhow::Result<Plugged> {
        if let Some(listener) = passed {
            let path = path_of(&listener);
            return Ok(Plugged::Listening(listener, path));
        }
        match plug {
            Plug::Descriptor(number) => match descriptor(*number)? {
                (_, Kind::Datagram | Kind::SeqPacket) if config.vhost_user => {
                    bail!(
                        "descriptor {number} (option '--fd') keeps messages apart: '--vhost-user' needs a stream socket"
                    )
                }
                (fd, kind) => Ok(Plugged::Connected(fd, kind)),
            },
            Plug::Connect(path) => {
                let stream = connect(path).with_context(|| cannot_connect(path))?;
                Ok(Plugged::Connected(stream.into(), Kind::Stream))
            }
            Plug::Socket(Some(path)) => {
                let listener = listen(path).with_context(|| cannot_listen(path))?;
                Ok(Plugged::Listening(listener, Some(path.clone())))
            }
            Plug::Socket(None) => {
                let (listener, path) = first_free(free_paths(config.personality))?;
                Ok(Plugged::Listening(listener, Some(path)))
            }
        }
    }

    /// Path of the socket that waits for clients.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Plugged::Listening(_, path) => path.as_deref(),
            Plugged::Connected(..) => None,
        }
    }

    /// The end of a link with this MTU.
    pub fn link(self, mtu: u16, vhost_user: bool, tee: Tee) -> Link {
        if vhost_user {
            return Link::Vhost(Box::new(match self {
                Plugged::Listening(listener, _) => Vhost::listening(listener, mtu, tee),
                Plugged::Connected(fd, _) => Vhost::connected(fd, mtu, tee),
            }));
        }
        Link::Socket(Box::new(match self {
            Plugged::Listening(listener, _) => Socket::listening(listener, mtu, tee),
            Plugged::Connected(fd, kind) => Socket::connected(fd, kind, mtu, tee),
        }))
    }
}

/// That `plug` could be opened, as far as can be told without doing it.
///
/// # Errors
/// What [`Plugged::open`] would fail with.
pub fn check(plug: &Plug) -> anyhow::Result<()> {
    match plug {
        Plug::Descriptor(fd) => descriptor(*fd).map(drop),
        // To try it would be to take the machine's one connection.
        Plug::Connect(path) => is_socket(path).with_context(|| cannot_connect(path)),
        Plug::Socket(None) => Ok(()),
        Plug::Socket(Some(path)) => {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let free = match std::fs::symlink_metadata(path) {
                Err(_) => eaccess(dir, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from),
                Ok(_) => place::is_stale(path).and_then(|stale| match stale {
                    true => Ok(()),
                    false => Err(io::ErrorKind::AddrInUse.into()),
                }),
            };
            free.with_context(|| cannot_listen(path))
        }
    }
}

fn descriptor(fd: i32) -> anyhow::Result<(OwnedFd, Kind)> {
    let own = process::adopt_descriptor(fd);
    let own = own.with_context(|| format!("descriptor {fd} (option '--fd') was not left open by the caller"))?;
    match unix::kind(own.as_fd()) {
        Ok(kind) => Ok((own, kind)),
        Err(what) => bail!("descriptor {fd} (option '--fd') {what}: give one that is connected to the machine"),
    }
}

fn cannot_listen(path: &Path) -> String {
    format!("cannot listen at the socket '{}' (option '--socket')", path.display())
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn cannot_connect(path: &Path) -> String {
    format!("cannot connect to the virtual machine's socket '{}' (option '--connect')", path.display())
}

/// Those to try in turn, if none is given.
fn free_paths(personality: Personality) -> Vec<PathBuf> {
    let of = |dir: &Path, name: &str| (1..=FREE_MAX).map(|n| dir.join(format!("{name}_{n}.socket"))).collect();
    let temporary = Path::new("/tmp");
    match personality {
        // A fixed place, which callers look at.
        Personality::Passt => of(temporary, "passt"),
        _ => {
            let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_dir());
            of(own.as_deref().unwrap_or(temporary), "spelt")
        }
    }
}

const FREE_MAX: u32 = 64;

/// Listens at the first path that is free. In a directory that is everybody's, some may be what others have left there, and not
/// only sockets.
fn first_free(paths: Vec<PathBuf>) -> anyhow::Result<(UnixListener, PathBuf)> {
    let mut odd = None;
    let names = (paths[0].clone(), paths[paths.len() - 1].clone());
    for path in paths {
        match listen(&path) {
            Ok(listener) => return Ok((listener, path)),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            // Nothing is there that could be in the way: it is the same with all of them.
            Err(e) if std::fs::symlink_metadata(&path).is_err() => return Err(e).with_context(|| cannot_listen(&path)),
            Err(e) => odd = odd.or(Some((e, path))),
        }
    }
    let (first, last) = (names.0.display(), names.1.display());
    let none =
        format!("no socket from '{first}' to '{last}' can be had: give a path of your own with option '--socket'");
    match odd {
        Some((e, path)) => Err(anyhow::Error::new(e).context(cannot_listen(&path)).context(none)),
        None => {
            bail!("all sockets from '{first}' to '{last}' are in use: give a path of your own with option '--socket'")
        }
    }
}

/// Listens at `path`. A socket that nobody answers at, left behind by an instance that has ended, is replaced; the mode is
/// what the umask leaves.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && place::is_stale(path)? => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn is_socket(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path)?.file_type().is_socket() {
        true => Ok(()),
        false => Err(io::Error::other("there is a file of that name that is no socket")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_socket_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (1..=4).map(|n| dir.path().join(n.to_string())).collect();
        std::fs::write(&paths[0], "").unwrap();
        std::os::unix::fs::symlink("nowhere", &paths[1]).unwrap();
        let _busy = UnixListener::bind(&paths[2]).unwrap();
        let (_listener, path) = first_free(paths.clone()).unwrap();
        assert_eq!(path, paths[3]);
        let text = format!("{:#}", first_free(paths).unwrap_err());
        assert!(text.contains("no socket from") && text.contains("that is no socket"), "{text}");
        let text = format!("{:#}", first_free(vec![dir.path().join("none/5")]).unwrap_err());
        assert!(text.starts_with("cannot listen at the socket"), "{text}");
    }
}
