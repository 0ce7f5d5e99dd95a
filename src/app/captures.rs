//! Captures that begin and end while we run: what the control thread is asked for, done with the workers.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::control::{Office, refusal};
use super::engine::Engine;
use crate::config::{Config, Mode};
use crate::control::capture::{Capture, CaptureOptions, Captures};
use crate::control::protocol::{Blame, FAILED, Failure, INVALID_PARAMS};
use crate::link::recording::{RECORDINGS_MAX, Recorder, Recording, Recordings, Wanted, Writer};
use crate::sys::output;

/// The control thread's.
pub(super) struct Archive {
    pub recordings: Recordings,
    /// Of what may be running: as it was asked for.
    running: RefCell<Vec<(Arc<Recording>, CaptureOptions)>>,
}

/// `interface`: the guest's, if it is in a namespace.
///
/// # Errors
/// The kernel's.
pub(super) fn open(config: &Config, interface: &str) -> io::Result<(Archive, Writer)> {
    let name = if let Mode::Machine { .. } = config.mode { "vm" } else { interface };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let os = format!("Linux {}", release.trim());
    let application = format!("{} {}", config.personality.name(), env!("CARGO_PKG_VERSION"));
    let (recordings, writer) = Recordings::new(application, os.trim().into(), name.into())?;
    Ok((Archive { recordings, running: RefCell::default() }, writer))
}

/// Has what was seen written, as far as that takes no longer than it may.
pub(super) fn finish(engine: &mut Engine, recordings: Option<&Recordings>) {
    engine.hand_in_captures();
    recordings.iter().for_each(|recordings| recordings.finish());
}

impl Office {
    pub(super) fn all_captures(&self) -> Captures {
        let mut running = self.archive.running.borrow_mut();
        running.retain(|(recording, _)| !recording.is_over());
        Captures { captures: running.iter().map(|(recording, options)| Capture::of(recording, options)).collect() }
    }

    pub(super) fn begin_capture(&self, options: CaptureOptions, output: Option<OwnedFd>) -> Result<Capture, Failure> {
        // Who only begins some, which end by themselves, must not make the list ever longer.
        self.archive.running.borrow_mut().retain(|(recording, _)| !recording.is_over());
        let pick = options.pick()?;
        let refused = |text: &str| Failure::new(INVALID_PARAMS, text);
        let output = output.ok_or_else(|| {
            refused("where to? Send a descriptor of a file or a pipe along with the request (SCM_RIGHTS, unix(7))")
        })?;
        output::kind(&output)
            .map_err(|wrong| refused(&format!("the descriptor that came with the request {wrong}")))?;
        let (snaplen, limit) = (options.snaplen, options.limit);
        let wanted = Wanted { pick, snaplen, limit, output: File::from(output) };
        let recording = self.archive.recordings.begin(wanted).ok_or_else(|| {
            let text = format!("{RECORDINGS_MAX} captures are running already: stop one of them");
            Failure::new(FAILED, text)
        })?;
        let joining = recording.clone();
        let joined = self.ask_all(move |engine, _| engine.join_capture(&joining));
        let refusal = match joined {
            Ok(links) if links.contains(&true) => None,
            Ok(_) => Some(Failure::new(FAILED, "there is nothing to capture: the guest has no interface")),
            Err(e) => Some(e),
        };
        if let Some(refusal) = refusal {
            // Workers that have joined, or will, hear that nobody wants their frames.
            recording.stop();
            return Err(refusal);
        }
        let capture = Capture::of(&recording, &options);
        self.archive.running.borrow_mut().push((recording, options));
        Ok(capture)
    }

    pub(super) fn end_captures(&self, ids: &[u64]) -> Result<Captures, Failure> {
        self.all_captures();
        let running = self.archive.running.borrow().clone();
        let known = |id: &u64| running.iter().any(|(recording, _)| recording.id == *id);
        let blame = |(index, id)| Blame { index, message: format!("no capture is running by the id {id}") };
        let blamed: Vec<Blame> = ids.iter().enumerate().filter(|(_, id)| !known(id)).map(blame).collect();
        if !blamed.is_empty() {
            return Err(refusal("no capture was stopped: not all of them are running", blamed));
        }
        let wanted = |recording: &Recording| ids.is_empty() || ids.contains(&recording.id);
        let ending: Vec<_> = running.into_iter().filter(|(recording, _)| wanted(recording)).collect();
        let leaving: Vec<u64> = ending.iter().map(|(recording, _)| recording.id).collect();
        // One that does not answer has its last frames lost; it leaves when it hands in the next.
        let _ = self.ask_all(move |engine, _| engine.leave_captures(&leaving));
        ending.iter().for_each(|(recording, _)| recording.stop());
        ending.iter().for_each(|(recording, _)| {
            recording.wait();
        });
        Ok(Captures { captures: ending.iter().map(|(recording, options)| Capture::of(recording, options)).collect() })
    }
}

impl Engine {
    /// False: there is no link whose frames could be recorded.
    fn join_capture(&mut self, recording: &Arc<Recording>) -> bool {
        let tee = self.link.tee();
        tee.map(|tee| tee.record(Recorder::new(recording.clone()))).is_some()
    }

    fn leave_captures(&mut self, ids: &[u64]) {
        if let Some(tee) = self.link.tee() {
            ids.iter().for_each(|id| tee.leave(*id));
        }
    }
}
