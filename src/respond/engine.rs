//! The addresses of container networks, from the engine's socket.
//!
//! Who may talk to an engine is as good as root, so whoever reads a stranger's frames must not. A process of its own does
//! (`follow`): it hears the engine's events, reads the networks again when there were any, and sends the addresses over a pair
//! of sockets to the responder, and what there is to log, for the log is the responder's alone. The responder reads nothing
//! else there (`Message`), and believes no more of it than that. The process keeps its files in sight, for an engine that is
//! started anew has a new socket; all else is given up.
//!
//! The same requests serve Docker and Podman, whose socket speaks Docker's language: `GET /networks/NAME`, `GET /events`.
//!
//! *Timers*: changes come in crowds, and are waited for (`CALM`); an engine that is not there is tried again (`AGAIN`).
//! While it is gone the addresses stay, for containers do.
//! *Limits*: `BODY_MAX` bytes a network, [`ADDRESSES_MAX`] addresses, `TEXT_MAX` bytes of a text.
//!
//! System calls: once socketpair, close_range; socket, connect, setsockopt, sendto, recvfrom, poll, close.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use log::{Level, LevelFilter};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde_json::Value;

use super::http::{self, Answer};
use crate::base::Addr;
use crate::config::Lacks;
use crate::sandbox;
use crate::sys::process::{self, Fork};
use crate::sys::signal;

/// Networks of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    pub socket: PathBuf,
    pub networks: Vec<String>,
}

pub const ADDRESSES_MAX: usize = 4096;
/// Of what is to be logged.
const TEXT_MAX: usize = 1024;
const BODY_MAX: usize = 8 << 20;
const CALM: Duration = Duration::from_millis(50);
/// One that does not end is not waited for any longer.
const CROWD: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_secs(2);
/// An engine that is busy is given this long for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// All networks, containers too: those of Podman's that start and end tell of no network.
const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";

/// The responder's end of the pair.
pub struct Follower(OwnedFd);

impl Follower {
    /// Starts the process. To be called while this one has one thread.
    ///
    /// # Errors
    /// The kernel's, as a sentence.
    pub fn start(engine: Engine, lacks: Lacks) -> anyhow::Result<Follower> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (ours, theirs) = pair.context("cannot make a pair of sockets")?;
        match process::fork().context("cannot make a process to follow the engine")? {
            Fork::Parent(_) => {
                nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
                    .context("cannot make a pair of sockets")?;
                Ok(Follower(ours))
            }
            Fork::Child => {
                drop(ours);
                // Two who write a log file by position write over each other's lines. What the kernel lacks the responder
                // tells, for it has the same to give up.
                let parent = Parent { socket: theirs.as_fd(), level: log::max_level() };
                log::set_max_level(LevelFilter::Off);
                process::close_inherited(Some(theirs.as_raw_fd()));
                // What ends the responder ends this: its own signals would only come first.
                let named = prctl::set_name(c"spelt-follower").map_err(anyhow::Error::from);
                let confined = named.and_then(|()| Ok(signal::block_all()?));
                let confined = confined.and_then(|()| Ok(sandbox::stay_among_files(sandbox::Role::FOLLOWER, lacks)?));
                match confined {
                    Ok(()) => follow(&engine, &parent),
                    Err(e) => {
                        parent.say(Level::Error, format!("cannot follow the engine: {e:#}"));
                    }
                }
                process::exit_now(1)
            }
        }
    }

    /// The addresses that were told last, if any were told. What else was said is logged.
    ///
    /// # Errors
    /// The process has ended.
    pub fn take(&mut self) -> io::Result<Option<BTreeSet<Addr>>> {
        self.hear(|level, text| log::log!(level, "{text}"))
    }

    fn hear(&mut self, mut say: impl FnMut(Level, &str)) -> io::Result<Option<BTreeSet<Addr>>> {
        let mut last = None;
        let mut room = vec![0; ADDRESSES_MAX * 16 + 1];
        loop {
            match recv(self.0.as_raw_fd(), &mut room, MsgFlags::empty()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => match Message::decode(&room[..len]) {
                    Some(Message::Addresses(all)) => last = Some(all),
                    Some(Message::Text(level, text)) => say(level, &text),
                    None => {}
                },
                Err(nix::Error::EAGAIN) => return Ok(last),
                Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsRawFd for Follower {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What the process tells the responder.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    Addresses(BTreeSet<Addr>),
    /// To be logged. Whoever logs it takes control characters out.
    Text(Level, String),
}

impl Message {
    /// A byte that is always there, so that no message is the end: 0, and sixteen for each address; or the level, and the text.
    fn encode(&self) -> Vec<u8> {
        match self {
            Message::Addresses(all) => {
                let mut bytes = vec![0];
                all.iter().take(ADDRESSES_MAX).for_each(|a| bytes.extend_from_slice(a.octets()));
                bytes
            }
            Message::Text(level, text) => std::iter::once(*level as u8).chain(text.bytes().take(TEXT_MAX)).collect(),
        }
    }

    /// `None`: it is no message. Addresses that no host has are left out.
    fn decode(bytes: &[u8]) -> Option<Message> {
        let (kind, rest) = bytes.split_first()?;
        if *kind == 0 {
            let addr = |b: &[u8]| Some(Addr::v6(b.try_into().ok()?)).filter(is_hosts);
            return Some(Message::Addresses(rest.chunks(16).filter_map(addr).collect()));
        }
        let level = Level::iter().find(|level| *level as usize == usize::from(*kind))?;
        Some(Message::Text(level, String::from_utf8_lossy(&rest[..rest.len().min(TEXT_MAX)]).into_owned()))
    }
}

/// The responder, as the process knows it.
struct Parent<'a> {
    socket: BorrowedFd<'a>,
    /// It is not woken up for what it would not log.
    level: LevelFilter,
}

impl Parent<'_> {
    /// False: it is gone.
    fn tell(&self, message: &Message) -> bool {
        send(self.socket.as_raw_fd(), &message.encode(), MsgFlags::MSG_NOSIGNAL).is_ok()
    }

    /// The same, of a text.
    fn say(&self, level: Level, text: String) -> bool {
        level > self.level || self.tell(&Message::Text(level, text))
    }
}

fn is_hosts(addr: &Addr) -> bool {
    addr.is_unicast() && !addr.is_loopback() && !addr.is_link_local()
}

/// Until the responder is gone.
fn follow(engine: &Engine, parent: &Parent<'_>) {
    let (mut told, mut complained) = (None, false);
    loop {
        let (level, text) = match follow_once(engine, parent, &mut told, &mut complained) {
            Ok(()) => return,
            Err(e) if complained => (Level::Debug, format!("cannot follow the engine: {e:#}")),
            Err(e) => {
                let place = engine.socket.display();
                (Level::Warn, format!("cannot follow the engine at '{place}': {e:#}; trying again"))
            }
        };
        complained = true;
        if !parent.say(level, text) || is_gone(parent.socket, AGAIN) {
            return;
        }
    }
}

/// `Ok`: the responder is gone.
fn follow_once(
    engine: &Engine,
    parent: &Parent<'_>,
    told: &mut Option<Message>,
    complained: &mut bool,
) -> anyhow::Result<()> {
    // Events first: nothing falls between them and the lists.
    let mut events = request(&engine.socket, EVENTS)?;
    let (mut answer, mut room, mut body) = (Answer::default(), [0; 4096], Vec::new());
    loop {
        let mut all = BTreeSet::new();
        for network in &engine.networks {
            all.append(&mut list(&engine.socket, network).with_context(|| format!("network '{network}'"))?);
        }
        if std::mem::take(complained) {
            parent.say(Level::Info, format!("following the engine at '{}' again", engine.socket.display()));
        }
        let all = Message::Addresses(all);
        if told.as_ref() != Some(&all) {
            if !parent.tell(&all) {
                return Ok(());
            }
            *told = Some(all);
        }
        // The rest of a crowd comes with its first.
        let (mut wait, mut since) = (PollTimeout::NONE, None);
        while since.is_none_or(|at: Instant| at.elapsed() < CROWD) && ready(events.as_fd(), parent.socket, wait)? {
            if is_gone(parent.socket, Duration::ZERO) {
                return Ok(());
            }
            match events.read(&mut room)? {
                0 => bail!("it has ended its events"),
                len => answer.take(&room[..len], &mut body).map_err(anyhow::Error::msg)?,
            }
            // What has happened is of no interest; that something has, is.
            if !body.is_empty() {
                body.clear();
                wait = PollTimeout::try_from(CALM).unwrap_or(PollTimeout::ZERO);
                since.get_or_insert_with(Instant::now);
            }
        }
    }
}

/// False: not within that time. With no limit, there is something.
fn ready(events: BorrowedFd<'_>, responder: BorrowedFd<'_>, wait: PollTimeout) -> io::Result<bool> {
    let mut fds = [PollFd::new(events, PollFlags::POLLIN), PollFd::new(responder, PollFlags::POLLIN)];
    match poll(&mut fds, wait) {
        Ok(count) => Ok(count > 0),
        Err(nix::Error::EINTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

fn is_gone(responder: BorrowedFd<'_>, wait: Duration) -> bool {
    let mut fds = [PollFd::new(responder, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)).is_ok_and(|count| count > 0)
}

fn request(socket: &Path, path: &str) -> anyhow::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).context("cannot connect")?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(http::get(path).as_bytes()).context("it takes no request")?;
    Ok(stream)
}

/// The addresses that a network's containers have now.
fn list(socket: &Path, network: &str) -> anyhow::Result<BTreeSet<Addr>> {
    let mut stream = request(socket, &format!("/networks/{network}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut answer, mut room, mut body) = (Answer::default(), [0; 16 << 10], Vec::new());
    let until = Instant::now() + PATIENCE;
    while !answer.is_done() {
        match stream.read(&mut room).context("it does not answer")? {
            0 => break,
            len => answer.take(&room[..len], &mut body).map_err(anyhow::Error::msg)?,
        }
        if body.len() > BODY_MAX || Instant::now() > until {
            bail!("its answer is too long");
        }
    }
    if !answer.is_whole() {
        bail!("its answer is cut short");
    }
    addresses(&body)
}

/// Out of what `GET /networks/NAME` answers.
///
/// # Errors
/// It is no JSON, or none of a network.
pub fn addresses(body: &[u8]) -> anyhow::Result<BTreeSet<Addr>> {
    let network: Value = serde_json::from_slice(body).context("its answer is no JSON")?;
    let containers = match &network["Containers"] {
        Value::Object(all) => all,
        Value::Null => return Ok(BTreeSet::new()),
        _ => bail!("its answer is no network"),
    };
    let texts = containers.values().flat_map(|c| [&c["IPv4Address"], &c["IPv6Address"]]);
    let addr = |v: &Value| v.as_str()?.split('/').next()?.parse::<IpAddr>().ok().map(Addr::from);
    Ok(texts.filter_map(addr).filter(is_hosts).take(ADDRESSES_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::a;
    use super::*;

    #[test]
    fn addresses_come_with_and_without_a_length() {
        let body = br#"{"Name":"web","Containers":{
            "x":{"Name":"one","IPv4Address":"192.0.2.5/26","IPv6Address":"2001:db8::5/112"},
            "y":{"IPv4Address":"192.0.2.6","IPv6Address":""},"z":{"IPv4Address":7,"IPv6Address":"fe80::1/64"}}}"#;
        assert_eq!(addresses(body).unwrap(), [a("192.0.2.5"), a("192.0.2.6"), a("2001:db8::5")].into());
        assert_eq!(addresses(b"{}").unwrap(), BTreeSet::new());
        for wrong in ["", "[", r#"{"Containers":[]}"#] {
            assert!(addresses(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    fn pair() -> (Follower, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (Follower(ours), theirs)
    }

    type Texts = Vec<(Level, String)>;

    /// What is there: the texts, and what [`Follower::take`] returns.
    fn heard(follower: &mut Follower) -> (Texts, io::Result<Option<BTreeSet<Addr>>>) {
        let mut texts = Vec::new();
        let taken = follower.hear(|level, text| texts.push((level, text.to_owned())));
        (texts, taken)
    }

    #[test]
    fn messages_hold_addresses_of_hosts_or_a_text() {
        let all = || Message::Addresses([a("192.0.2.5"), a("2001:db8::5")].into());
        let none = || Some(Message::Addresses(BTreeSet::new()));
        let text = |level, text: &str| Message::Text(level, text.into());
        for message in [all(), none().unwrap(), text(Level::Error, "a word"), text(Level::Trace, "")] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        let hostile = [&[0][..], a("ff02::1").octets(), a("::1").octets(), &[7; 5]].concat();
        assert_eq!(Message::decode(&hostile), none());
        for nothing in [&[][..], &[6], &[255, b'x']] {
            assert_eq!(Message::decode(nothing), None);
        }
    }

    #[test]
    fn texts_are_cut_on_either_side() {
        let long = Message::Text(Level::Warn, "é".repeat(TEXT_MAX));
        assert_eq!(long.encode().len(), TEXT_MAX + 1);
        let hostile = [&[2][..], &b"x".repeat(100_000), &[0xff]].concat();
        assert_eq!(Message::decode(&hostile), Some(Message::Text(Level::Warn, "x".repeat(TEXT_MAX))));
        assert_eq!(Message::decode(&[1, 0xff, b'x']), Some(Message::Text(Level::Error, "\u{fffd}x".into())));
    }

    #[test]
    fn the_responder_takes_what_it_understands() {
        let (mut follower, theirs) = pair();
        let tell = |bytes: &[u8]| send(theirs.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
        assert!(matches!(heard(&mut follower), (texts, Ok(None)) if texts.is_empty()));
        tell(&Message::Addresses([a("192.0.2.5")].into()).encode());
        tell(&[77; 100_000]);
        tell(&Message::Text(Level::Warn, "a word".into()).encode());
        tell(&Message::Addresses([a("192.0.2.6")].into()).encode());
        let (texts, taken) = heard(&mut follower);
        assert_eq!(texts, [(Level::Warn, "a word".to_owned())]);
        assert_eq!(taken.unwrap(), Some([a("192.0.2.6")].into()));
        tell(&Message::Text(Level::Error, "the last".into()).encode());
        drop(theirs);
        let (texts, taken) = heard(&mut follower);
        assert_eq!(texts, [(Level::Error, "the last".to_owned())]);
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_process_logs_nothing_by_itself_and_ends_with_the_responder() {
        for level in [LevelFilter::Warn, LevelFilter::Error] {
            let (mut follower, theirs) = pair();
            let engine = Engine { socket: "/no/such/socket".into(), networks: vec!["web".into()] };
            let following = std::thread::spawn(move || follow(&engine, &Parent { socket: theirs.as_fd(), level }));
            let wait = Duration::from_millis(if level == LevelFilter::Warn { 5000 } else { 100 });
            let told = is_gone(follower.0.as_fd(), wait);
            let (texts, taken) = heard(&mut follower);
            assert_eq!((told, taken.unwrap()), (level == LevelFilter::Warn, None));
            assert_eq!(texts.len(), usize::from(told));
            for (level, text) in texts {
                assert_eq!(level, Level::Warn);
                assert!(text.starts_with("cannot follow the engine at '/no/such/socket': cannot connect: "), "{text}");
                assert!(text.ends_with("; trying again"), "{text}");
            }
            drop(follower);
            following.join().unwrap();
        }
    }
}
