//! What ends a running instance: a signal, the end of the command, the namespace, the virtual machine or the caller.

use std::os::fd::AsFd;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::Context;
use mio::Interest;
use mio::unix::SourceFd;
use nix::sys::signal::Signal;

use super::control::ASKED_TO_QUIT;
use super::engine::{Engine, Next};
use super::plug::CLIENT_GONE;
use crate::base::{Kind, Token};
use crate::ns::{self, Child, Interface, Namespace, Watch};
use crate::sys::faults;
use crate::sys::process;
use crate::sys::signal::{self, Signals};
use crate::sys::terminal::Terminal;

/// Who is served.
pub enum Guest {
    Spawned(Child),
    Attached(Namespace),
    /// A virtual machine; `one_off`: the first that comes, and no other.
    Machine {
        one_off: bool,
    },
}

impl Guest {
    /// Makes the tap in the guest's namespace, or takes it over from the child that has made it. `None`: there is no
    /// namespace. `confine`: how whoever changes it later gives up privileges, if it is to be changed and has any to give up.
    pub fn tap<E>(
        &mut self,
        interface: &Interface,
        confine: Option<impl FnOnce() -> Result<(), E>>,
    ) -> Result<Option<ns::Tap>, ns::Error> {
        match self {
            Guest::Spawned(child) => child.tap().map(Some),
            Guest::Attached(namespace) => namespace.attach(interface, confine).map(Some),
            Guest::Machine { .. } => Ok(None),
        }
    }

    /// True if a process that enters can become the user that we become.
    pub fn has_our_users(&self) -> bool {
        matches!(self, Guest::Attached(namespace) if namespace.keeps_user_namespace())
    }

    /// Starts what makes sockets inside. To be called when the tap is there. `None`: there is no namespace.
    pub fn broker<E: std::fmt::Display>(
        &self,
        confine: impl FnOnce() -> Result<(), E>,
    ) -> Result<Option<ns::Broker>, ns::Error> {
        match self {
            Guest::Spawned(child) => child.broker(confine).map(Some),
            Guest::Attached(namespace) => namespace.broker(confine).map(Some),
            Guest::Machine { .. } => Ok(None),
        }
    }
}

/// Waits for the end beside the event loop.
pub struct Supervisor {
    signals: Signals,
    end: End,
    /// Hung up when the caller wants the end.
    exit: Option<OwnedFd>,
    /// How long to go on after the namespace's end.
    linger: Linger,
    /// What a command may take from whoever started us.
    terminal: Option<Terminal>,
    /// When the terminal goes, we alone hear of it: credentials(7).
    leads_session: bool,
}

enum End {
    Child(Child),
    Namespace(Watch),
    /// A virtual machine's first client.
    Client,
    /// `--no-netns-quit`, and virtual machines without `--one-off`.
    Never,
}

/// How long a command may take to end by the signal that we pass on before its namespace is taken from it.
const GRACE: Duration = Duration::from_secs(2);
/// The event of the caller's descriptor, and that of the command or namespace. Index 0 is for timers.
const EXIT: Token = Token { kind: Kind::Quit, generation: 0, index: 1 };
const END: Token = Token { kind: Kind::Quit, generation: 0, index: 2 };

/// Whether we go on for a while when the namespace has gone.
#[derive(Clone, Copy, Debug)]
enum Linger {
    No,
    For(Duration),
    /// It has gone, and a timer is running.
    Since,
}

impl Supervisor {
    pub fn new(guest: Guest, netns_quit: bool, exit: Option<OwnedFd>, linger: Duration) -> anyhow::Result<Supervisor> {
        let mut which = vec![Signal::SIGTERM];
        // A job that a shell has put into the background, or that nohup(1) guards, outlives its terminal.
        which.extend([Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT].into_iter().filter(|s| !signal::is_ignored(*s)));
        let signals = Signals::new(&which).context("cannot receive signals")?;
        let end = match guest {
            Guest::Spawned(child) => End::Child(child),
            Guest::Attached(namespace) if netns_quit => End::Namespace(namespace.into_watch()),
            Guest::Machine { one_off: true } => End::Client,
            Guest::Attached(_) | Guest::Machine { .. } => End::Never,
        };
        let terminal = Terminal::of_foreground().filter(|_| matches!(end, End::Child(_)));
        let linger = if linger.is_zero() { Linger::No } else { Linger::For(linger) };
        let leads_session = nix::unistd::getsid(None) == Ok(nix::unistd::getpid());
        Ok(Supervisor { signals, end, exit, linger, terminal, leads_session })
    }

    pub fn register(&self, engine: &mut Engine) -> anyhow::Result<()> {
        let add = |fd: &dyn AsRawFd, token: Token| {
            let token = mio::Token(token.to_usize());
            engine.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)
        };
        add(&self.signals, Token::only(Kind::Signal)).context("cannot wait for signals")?;
        if let Some(exit) = &self.exit {
            match add(exit, EXIT) {
                // A file, which has no other end.
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                    log::warn!("option '--exit-fd' names no pipe or socket: it will never tell that we are to end");
                }
                added => added.context("cannot wait for the end of the caller")?,
            }
        }
        let mut period = None;
        let fd = match &self.end {
            End::Child(child) => Some(child.pidfd()),
            End::Namespace(watch) => {
                period = watch.period();
                watch.fd()
            }
            End::Client | End::Never => None,
        };
        if let Some(fd) = fd {
            add(&fd.as_fd(), END).context("cannot wait for the namespace's end")?;
        }
        if let Some(period) = period {
            engine.wake_after(period);
        }
        Ok(())
    }

    /// Starts the command, serves the guest until the end, and returns the exit status.
    pub fn run(&mut self, engine: &mut Engine) -> anyhow::Result<u8> {
        if let End::Child(child) = &mut self.end {
            child.go()?;
        }
        let mut status = 0;
        let mut ending = false;
        engine.start();
        faults::begin();
        let served = loop {
            let served = engine.run(|token| match token.kind {
                Kind::Signal => self.on_signal(&mut ending),
                _ if token == EXIT => self.on_exit(),
                _ if token == ASKED_TO_QUIT => self.on_request(&mut ending),
                _ => self.on_end(token, &mut status, ending),
            });
            let (Err(e), End::Child(child)) = (&served, &mut self.end) else { break served };
            // The command may have removed the interface on purpose; to end would be the command's end as well.
            if child.try_wait()?.is_some() || !engine.unplug() {
                break served;
            }
            log::error!("the guest's network interface is gone ({e}): the command goes on without");
        };
        faults::end();
        if let Some(terminal) = &self.terminal {
            terminal.take_back();
        }
        match (served, &mut self.end) {
            (Ok(()), End::Child(_)) => {
                engine.guest_is_gone();
                Ok(status)
            }
            (Ok(()), _) => Ok(status),
            // The tap is gone: with a namespace that is expected, and the exit status is still the command's.
            (Err(e), End::Child(child)) => match child.try_wait()? {
                Some(status) => Ok(status),
                None => Err(e).context("the guest's network interface is gone"),
            },
            (Err(e), End::Namespace(watch)) => match watch.is_gone() {
                true => Ok(status),
                false => Err(e).context("the guest's network interface is gone"),
            },
            (Err(e), End::Client | End::Never) => Err(e).context("the guest's network interface is gone"),
        }
    }

    fn on_signal(&mut self, ending: &mut bool) -> Next {
        let mut next = Next::Continue;
        while let Ok(Some(signal)) = self.signals.take() {
            let End::Child(child) = &self.end else { return Next::Stop };
            // The terminal's keys reach the whole foreground group: the command has the signal already, and decides. The end of
            // the terminal reaches the leader of its session, and the others when that has ended.
            let is_ours_alone = self.leads_session && signal.number == libc::SIGHUP && !signal.from_process;
            if !signal.from_process && !is_ours_alone {
                continue;
            }
            if child.signal(signal.number).is_err() {
                return Next::Stop;
            }
            // A command that outlives its terminal may.
            if is_ours_alone {
                continue;
            }
            *ending = true;
            next = Next::WakeAfter(GRACE);
        }
        next
    }

    /// As a SIGTERM from somebody.
    fn on_request(&mut self, ending: &mut bool) -> Next {
        log::info!("asked to end over the control socket");
        let End::Child(child) = &self.end else { return Next::Stop };
        if child.signal(libc::SIGTERM).is_err() {
            return Next::Stop;
        }
        *ending = true;
        Next::WakeAfter(GRACE)
    }

    fn on_exit(&self) -> Next {
        if self.exit.as_ref().is_some_and(process::is_hung_up) {
            log::info!("the caller has closed its end: ending");
            return Next::Stop;
        }
        Next::Continue
    }

    fn on_end(&mut self, token: Token, status: &mut u8, ending: bool) -> Next {
        match &mut self.end {
            End::Child(child) => match child.try_wait() {
                Ok(Some(code)) => {
                    *status = code;
                    Next::Stop
                }
                Ok(None) if ending => {
                    let _ = child.signal(libc::SIGKILL);
                    Next::Continue
                }
                Ok(None) => Next::Continue,
                Err(e) => {
                    log::error!("cannot tell what became of the command: {e}");
                    *status = 1;
                    Next::Stop
                }
            },
            End::Namespace(watch) => {
                match self.linger {
                    Linger::Since if token == END => return Next::Continue,
                    Linger::Since => return Next::Stop,
                    _ if !watch.is_gone() => return watch.period().map_or(Next::Continue, Next::WakeAfter),
                    Linger::For(time) => {
                        self.linger = Linger::Since;
                        return Next::WakeAfter(time);
                    }
                    Linger::No => {}
                }
                log::info!("the namespace is gone: ending");
                Next::Stop
            }
            End::Client if token == CLIENT_GONE => {
                log::info!("the client is gone: ending");
                Next::Stop
            }
            End::Client | End::Never => Next::Continue,
        }
    }
}
