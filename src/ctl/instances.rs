//! The user's running instances.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;

use super::client::Client;
use crate::control::place::{default_dir, default_path, is_stale};
use crate::control::protocol::Info;

pub struct Instance {
    pub path: PathBuf,
    pub info: Info,
}

/// Those with a control socket of the default kind, by process id. Sockets that were left behind are removed: an instance cannot
/// do that itself, for it sees no files.
///
/// # Errors
/// The directory cannot be read.
pub fn all() -> anyhow::Result<Vec<Instance>> {
    let Some(dir) = default_dir() else { return Ok(Vec::new()) };
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot look for instances in '{}'", dir.display())),
    };
    let mut all: Vec<Instance> = entries.flatten().filter_map(|entry| instance(&entry.path())).collect();
    all.sort_by_key(|i| i.info.pid);
    Ok(all)
}

/// `None`: nobody is there.
fn instance(path: &Path) -> Option<Instance> {
    if path.extension().is_none_or(|e| e != "sock") {
        return None;
    }
    // Not by being refused: one that is about to start is bound, and does not listen yet.
    if is_stale(path).ok()? {
        let _ = std::fs::remove_file(path);
        return None;
    }
    let info = Client::connect(path).ok()?.ask("info", json!({})).ok()?;
    Some(Instance { path: path.to_owned(), info: serde_json::from_value(info).ok()? })
}

/// The control socket of the instance that was named, or of the only one.
///
/// # Errors
/// There is none, or there are several.
pub fn find(named: Option<&str>) -> anyhow::Result<PathBuf> {
    match named {
        Some(text) if text.contains('/') => Ok(text.into()),
        Some(text) => {
            let pid =
                text.parse().with_context(|| format!("'{text}' is neither a process id nor a path with a '/'"))?;
            default_path(pid).context("XDG_RUNTIME_DIR is not set: give the path of the control socket")
        }
        None => {
            let mut all = all()?;
            match all.len() {
                1 => Ok(all.remove(0).path),
                0 => bail!("no instance is running here with a control socket: give its path (option '--instance')"),
                n => bail!("{n} instances are running: say which (option '--instance'; 'spelt list' shows them)"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;

    #[test]
    fn what_was_left_behind_goes_and_what_is_about_to_start_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("4711.sock");
        let starting = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        starting.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        assert!(instance(&path).is_none() && path.exists());
        drop(starting);
        assert!(instance(&path).is_none() && !path.exists());
    }
}
