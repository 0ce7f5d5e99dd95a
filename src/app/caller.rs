//! Descriptors by which whoever started us hears that all is ready, and tells us to end.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use anyhow::Context;

use crate::config::Config;
use crate::sys::process;

/// Adopted before the other inherited descriptors are closed.
#[derive(Default)]
pub struct Caller {
    ready: Option<OwnedFd>,
    /// Its other end is closed when we are to end.
    pub exit: Option<OwnedFd>,
}

impl Caller {
    /// # Errors
    /// A descriptor that is not open.
    pub fn adopt(config: &Config) -> anyhow::Result<Caller> {
        let adopt = |fd: Option<i32>, option| {
            let adopted = fd.map(|fd| {
                process::adopt_descriptor(fd)
                    .with_context(|| format!("descriptor {fd} (option '{option}') was not left open by the caller"))
            });
            adopted.transpose()
        };
        Ok(Caller { ready: adopt(config.ready_fd, "--ready-fd")?, exit: adopt(config.exit_fd, "--exit-fd")? })
    }

    /// Says that all is ready, once, and closes the descriptor.
    pub fn ready(&mut self) {
        if let Some(fd) = self.ready.take()
            && let Err(e) = File::from(fd).write_all(b"1")
        {
            log::warn!("cannot tell the caller that all is ready (option '--ready-fd'): {e}");
        }
    }
}
