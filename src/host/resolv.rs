//! Name servers and search list of the host, resolv.conf(5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::base::{Addr, Family, PerFamily};

/// What resolv.conf says; empty where it says nothing that can be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    /// In the file's order, duplicates kept, zones (`%eth0`) cut.
    pub nameservers: PerFamily<Vec<Addr>>,
    /// The last `search` or `domain` line, which is the one that counts.
    pub search: Vec<String>,
    /// What stands behind `options`, a line each.
    pub options: Vec<String>,
    /// There is no such file.
    pub is_missing: bool,
}

impl Resolv {
    /// A file that is missing or damaged counts as far as it can be read: names are not the guest's only need.
    pub fn read(path: &Path) -> Resolv {
        match std::fs::read(path) {
            Ok(bytes) => Resolv::of(Some(&bytes[..bytes.len().min(FILE_MAX_BYTES)])),
            Err(e) => {
                log::debug!("{} not read: {e}", path.display());
                Resolv { is_missing: e.kind() == std::io::ErrorKind::NotFound, ..Resolv::of(None) }
            }
        }
    }

    /// Of a file that says this. `None`: there is none.
    pub(super) fn of(text: Option<&[u8]>) -> Resolv {
        let mut found = text.map_or_else(|| Resolv { is_missing: true, ..Resolv::default() }, Resolv::parse);
        // "If no nameserver entries are present, the default is to use the name server on the local machine."
        if found.is_empty() {
            found.nameservers.v4.push(IpAddr::from(Ipv4Addr::LOCALHOST).into());
        }
        found
    }

    pub fn parse(bytes: &[u8]) -> Resolv {
        let (config, errors) = resolv_conf::Config::parse_with_errors(&without_zones(bytes));
        for e in errors {
            log::debug!("resolv.conf: {e}");
        }
        let mut found = Resolv::default();
        for server in &config.nameservers {
            let addr = match IpAddr::from(server) {
                // To a socket, and so to the C library, the unspecified address means this host.
                IpAddr::V4(a) if a.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(a) if a.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                other => other,
            };
            let addr = Addr::from(addr);
            if found.nameservers[addr.family()].len() < SERVERS_MAX {
                found.nameservers[addr.family()].push(addr);
            }
        }
        found.options = bytes.split(|b| *b == b'\n').filter_map(options).collect();
        found.search = config.get_last_search_or_domain().filter(|d| *d != ".").map(String::from).collect();
        found
    }

    /// True if no family has a server.
    pub fn is_empty(&self) -> bool {
        self.nameservers.v4.is_empty() && self.nameservers.v6.is_empty()
    }

    /// The first server of `family`.
    pub fn first(&self, family: Family) -> Option<Addr> {
        self.nameservers[family].first().copied()
    }
}

/// The text without the zones of servers, some of which (`%br-lan`) the parser does not know.
fn without_zones(text: &[u8]) -> Vec<u8> {
    let cut = |line: &[u8]| match line.iter().position(|b| *b == b'%') {
        Some(at) if line.trim_ascii_start().starts_with(b"nameserver") => line[..at].to_vec(),
        _ => line.to_vec(),
    };
    text.split(|b| *b == b'\n').map(cut).collect::<Vec<_>>().join(&b'\n')
}

/// What a line says behind the word `options`, which begins the line (resolv.conf(5)).
fn options(line: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(line.strip_prefix(b"options")?).ok()?;
    let is_option_line = text.starts_with([' ', '\t']) && !text.trim().is_empty();
    is_option_line.then(|| text.trim().to_string())
}

/// Servers used per family, as resolver libraries do (MAXNS).
const SERVERS_MAX: usize = 3;
const FILE_MAX_BYTES: usize = 65536;

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(list: &[Addr]) -> Vec<String> {
        list.iter().map(Addr::to_string).collect()
    }

    #[test]
    fn servers_by_family_and_last_search_line() {
        let r = Resolv::parse(
            b"# made by hand\nsearch old.example\nnameserver 192.0.2.53\nnameserver fe80::53%br-lan.10\noptions edns0\n\
              nameserver 127.0.0.53\nsearch example.org example.net\n",
        );
        assert_eq!(addrs(&r.nameservers.v4), ["192.0.2.53", "127.0.0.53"]);
        assert_eq!(addrs(&r.nameservers.v6), ["fe80::53"]);
        assert_eq!(r.search, ["example.org", "example.net"]);
        assert_eq!(r.options, ["edns0"]);
    }

    #[test]
    fn damage_loses_only_its_own_line() {
        let r = Resolv::parse(b"nameserver 999.1.1.1\n\xff\xfe\x00\nnameserver\nnonsense here\nnameserver 192.0.2.1\n");
        assert_eq!(addrs(&r.nameservers.v4), ["192.0.2.1"]);
    }

    #[test]
    fn at_most_three_servers_a_family() {
        let text: String = (1..9).map(|n| format!("nameserver 192.0.2.{n}\n")).collect();
        assert_eq!(addrs(&Resolv::parse(text.as_bytes()).nameservers.v4), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    }

    #[test]
    fn no_file_and_no_server_mean_this_host() {
        let missing = Resolv::read(Path::new("/nonexistent/resolv.conf"));
        assert_eq!((addrs(&missing.nameservers.v4), missing.is_missing), (vec!["127.0.0.1".into()], true));
        let empty = Resolv::read(Path::new("/dev/null"));
        assert_eq!((addrs(&empty.nameservers.v4), empty.is_missing), (vec!["127.0.0.1".into()], false));
    }

    #[test]
    fn unspecified_address_means_this_host() {
        let r = Resolv::parse(b"nameserver 0.0.0.0\nnameserver ::\noptionsx\noptions  ndots:5\t\noptions\n");
        assert_eq!(
            (addrs(&r.nameservers.v4), addrs(&r.nameservers.v6)),
            (vec!["127.0.0.1".into()], vec!["::1".into()])
        );
        assert_eq!(r.options, ["ndots:5"]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_parse(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            proptest::prop_assert!(Resolv::parse(&bytes).nameservers.v4.len() <= SERVERS_MAX);
        }
    }
}
