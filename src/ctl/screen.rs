//! A terminal that is drawn on again and again, and is as it was before when that ends: by `q`, by a signal, or by an error.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};

use crate::sys::signal::Signals;
use crate::sys::terminal::Keys;

pub struct Screen {
    signals: Signals,
    /// `None`: while somebody else has the terminal.
    taken: Option<Taken>,
}

impl Screen {
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Screen> {
        let which =
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGWINCH];
        Ok(Screen { signals: Signals::new(&which)?, taken: Some(Taken::take()?) })
    }

    /// Draws from the first line on.
    ///
    /// # Errors
    /// Nobody sees it.
    pub fn draw(&self, text: &str) -> io::Result<()> {
        // Behind the last line nothing: a line's end there would move all the others up.
        let lines = text.trim_end_matches('\n').replace('\n', "\x1b[K\n");
        write_out(&format!("\x1b[H{lines}\x1b[K\x1b[J"))
    }

    /// Waits for the next time to draw; false: the user has seen enough.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self, period: Duration) -> io::Result<bool> {
        let until = Instant::now() + period;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            let input = io::stdin();
            let mut polled =
                [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN), PollFd::new(input.as_fd(), PollFlags::POLLIN)];
            // Standard input may be no terminal, and always ready.
            let with_keys = self.taken.as_ref().is_some_and(|taken| taken.keys.is_some());
            let polled = if with_keys { &mut polled[..] } else { &mut polled[..1] };
            poll(polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))?;
            let key = polled.get(1).is_some_and(|p| p.any() == Some(true));
            let mut typed = [0; 16];
            // Nothing at all: the terminal is gone.
            if key && nix::unistd::read(&input, &mut typed).is_ok_and(|n| n == 0 || typed[..n].contains(&b'q')) {
                return Ok(false);
            }
            if let Some(signal) = self.signals.take()? {
                match Signal::try_from(signal.number) {
                    Ok(Signal::SIGWINCH) => return Ok(true),
                    Ok(Signal::SIGTSTP) => {
                        self.taken = None;
                        raise(Signal::SIGSTOP)?;
                        self.taken = Some(Taken::take()?);
                        return Ok(true);
                    }
                    _ => return Ok(false),
                }
            }
        }
    }
}

/// The other screen of the terminal, without a cursor.
struct Taken {
    keys: Option<Keys>,
}

impl Taken {
    fn take() -> io::Result<Taken> {
        let keys = Keys::take();
        write_out("\x1b[?1049h\x1b[?25l")?;
        Ok(Taken { keys })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let _ = write_out("\x1b[?25h\x1b[?1049l");
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
