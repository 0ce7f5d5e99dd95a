//! Name servers and search list of the host, resolv.conf(5).

use std::path::Path;

use crate::base::{Addr, Family, PerFamily};

/// What resolv.conf says; empty where it says nothing that can be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    /// In the file's order, duplicates kept, zones (`%eth0`) cut.
    pub nameservers: PerFamily<Vec<Addr>>,
    /// The last `search` or `domain` line, which is the one that counts.
    pub search: Vec<String>,
}

impl Resolv {
    /// A file that is missing or damaged counts as far as it can be read: names are not the guest's only need.
    pub fn read(path: &Path) -> Resolv {
        match std::fs::read(path) {
            Ok(bytes) => Resolv::parse(&bytes[..bytes.len().min(FILE_MAX_BYTES)]),
            Err(e) => {
                log::debug!("{} not read: {e}", path.display());
                Resolv::default()
            }
        }
    }

    pub fn parse(bytes: &[u8]) -> Resolv {
        let (config, errors) = resolv_conf::Config::parse_with_errors(bytes);
        for e in errors {
            log::debug!("resolv.conf: {e}");
        }
        let mut found = Resolv::default();
        for server in &config.nameservers {
            let addr: Addr = std::net::IpAddr::from(server).into();
            if found.nameservers[addr.family()].len() < SERVERS_MAX {
                found.nameservers[addr.family()].push(addr);
            }
        }
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
            b"# made by hand\nsearch old.example\nnameserver 192.0.2.53\nnameserver fe80::53%eth0\noptions edns0\n\
              nameserver 127.0.0.53\nsearch example.org example.net\n",
        );
        assert_eq!(addrs(&r.nameservers.v4), ["192.0.2.53", "127.0.0.53"]);
        assert_eq!(addrs(&r.nameservers.v6), ["fe80::53"]);
        assert_eq!(r.search, ["example.org", "example.net"]);
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
    fn no_file_is_no_server() {
        assert!(Resolv::read(Path::new("/nonexistent/resolv.conf")).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_parse(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            proptest::prop_assert!(Resolv::parse(&bytes).nameservers.v4.len() <= SERVERS_MAX);
        }
    }
}
