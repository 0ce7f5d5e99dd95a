//! The pool of pipes: one is borrowed while data is in flight.

use std::io;

use crate::sys::splice::Pipe;

/// Lends pipes, [`PIPES_MAX`] at most at a time. They are made when needed.
#[derive(Debug)]
pub struct Pipes {
    idle: Vec<Pipe>,
    lent: usize,
    /// Capacity to ask for; `None`: the kernel's default.
    size: Option<usize>,
    limit: usize,
}

/// Pipes at most. Those with capacity [`SIZE_MAX_BYTES`] are half of what `pipe-user-pages-soft` grants a user by default,
/// beyond which every further pipe of the user, in whichever program, gets two pages.
pub const PIPES_MAX: usize = 32;
/// Pipes kept when nothing is in flight.
const IDLE_MAX: usize = 4;
/// Capacity tried first, then half of it, and so on.
const SIZE_MAX_BYTES: usize = 1 << 20;
/// The kernel's default: not worth a request.
const SIZE_MIN_BYTES: usize = 64 << 10;

impl Pipes {
    /// Finds out what capacity this user may have.
    pub fn new() -> Pipes {
        let mut pipes = Pipes { idle: Vec::new(), lent: 0, size: None, limit: PIPES_MAX };
        if let Ok(pipe) = Pipe::new() {
            let mut size = SIZE_MAX_BYTES;
            while size > SIZE_MIN_BYTES && pipe.resize(size).is_err() {
                size /= 2;
            }
            pipes.size = (size > SIZE_MIN_BYTES).then_some(size);
            pipes.idle.push(pipe);
        }
        pipes
    }

    /// An empty pipe; `None` if all are lent or the host has none.
    pub fn take(&mut self) -> Option<Pipe> {
        if self.lent >= self.limit {
            return None;
        }
        let pipe = self.idle.pop().or_else(|| self.make().ok())?;
        self.lent += 1;
        Some(pipe)
    }

    /// Takes a pipe back that is empty.
    pub fn put(&mut self, pipe: Pipe) {
        self.lent -= 1;
        if self.idle.len() < IDLE_MAX {
            self.idle.push(pipe);
        }
    }

    /// Closes a pipe that still has something of a connection that is over.
    pub fn discard(&mut self, pipe: Pipe) {
        self.lent -= 1;
        drop(pipe);
    }

    pub fn lent(&self) -> usize {
        self.lent
    }

    fn make(&self) -> io::Result<Pipe> {
        let pipe = Pipe::new()?;
        if let Some(size) = self.size {
            // Others of the same user may have taken what was granted: a small pipe does as well.
            let _ = pipe.resize(size);
        }
        Ok(pipe)
    }

    #[cfg(test)]
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }
}
