//! Whether ports listen that an instance says nothing about: other programs' instances keep rules that they could not carry
//! out, and tell nobody but their log. The kernel lists the sockets of the namespace that we are in.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::path::Path;

use crate::base::Addr;
use crate::fwd::Proto;
use crate::fwd::ports::Rule;

/// Sockets that wait at each port, by their inodes.
#[derive(Debug, Default)]
pub struct Listening(HashMap<(Proto, Addr, u16), HashSet<u64>>);

impl Listening {
    /// Now, here.
    pub fn look() -> Listening {
        let mut listening = Listening::default();
        for (file, proto) in [("tcp", Proto::Tcp), ("tcp6", Proto::Tcp), ("udp", Proto::Udp), ("udp6", Proto::Udp)] {
            // Without IPv6 there is none of its files.
            let text = std::fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
            listening.read(proto, &text);
        }
        listening
    }

    fn read(&mut self, proto: Proto, text: &str) {
        /// Listening, and not connected: TCP_LISTEN and TCP_CLOSE of include/net/tcp_states.h.
        const WAITS: [&str; 2] = ["0A", "07"];
        let wanted = WAITS[usize::from(proto == Proto::Udp)];
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace();
            let (local, state, inode) = (words.nth(1), words.nth(1), words.nth(5));
            let Some((addr, port)) = local.and_then(endpoint) else { continue };
            if state == Some(wanted)
                && let Some(inode) = inode.and_then(|n| n.parse().ok())
            {
                self.0.entry((proto, addr, port)).or_default().insert(inode);
            }
        }
    }

    /// Ports of `rule` at which nothing new listens since `before`, but for those that were its instance's before.
    pub fn missing(&self, rule: &Rule, before: &Listening, had: &[Rule]) -> Vec<u16> {
        let addrs = match rule.listen {
            Some(addr) => vec![addr],
            None => vec![Addr::V6_UNSPECIFIED, Addr::V4_UNSPECIFIED],
        };
        let none = HashSet::new();
        let waits = |port: u16| {
            addrs.iter().any(|addr| {
                let key = (rule.proto, *addr, port);
                let now = self.0.get(&key).unwrap_or(&none);
                let kept = had.iter().any(|r| r.first <= port && port <= r.last && r.conflicts(rule));
                if kept { !now.is_empty() } else { !now.is_subset(before.0.get(&key).unwrap_or(&none)) }
            })
        };
        (rule.first..=rule.last).filter(|port| !waits(*port)).collect()
    }
}

/// As in `/proc/net/tcp`: 32-bit words in the machine's order, then the port.
fn endpoint(text: &str) -> Option<(Addr, u16)> {
    let (addr, port) = text.split_once(':')?;
    let words: Option<Vec<[u8; 4]>> = (0..addr.len() / 8)
        .map(|n| u32::from_str_radix(addr.get(8 * n..8 * n + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect();
    let addr = match words?[..] {
        [v4] => Addr::v4(v4),
        [a, b, c, d] => Addr::v6([a, b, c, d].concat().try_into().ok()?),
        _ => return None,
    };
    Some((addr, u16::from_str_radix(port, 16).ok()?))
}

/// True if the socket at `path` was made in the network namespace that we are in, and so were, in all likelihood, those of
/// whoever listens there.
pub fn is_here(path: &Path) -> bool {
    /// __SO_ACCEPTCON of linux/net.h.
    const LISTENS: &str = "00010000";
    let text = std::fs::read("/proc/self/net/unix").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let end = format!(" {}", path.display());
    text.lines().any(|line| line.split_whitespace().nth(3) == Some(LISTENS) && line.ends_with(&end))
}

/// `80, 443 and 17 more`.
pub fn some(ports: &[u16]) -> String {
    const SHOWN: usize = 8;
    let mut text = ports.iter().take(SHOWN).map(u16::to_string).collect::<Vec<_>>().join(", ");
    if ports.len() > SHOWN {
        let _ = write!(text, " and {} more", ports.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests;
