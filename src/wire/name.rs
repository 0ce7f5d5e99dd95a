//! Domain names in wire form (RFC 1035 §3.1), as router advertisements, DHCP and DHCPv6 carry them.

/// Longest name in wire form, root label included (RFC 1035 §2.3.4).
const NAME_MAX: usize = 255;
const LABEL_MAX: usize = 63;

/// A list of names in wire form, that grows no longer than it may.
#[derive(Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    /// With compression: where in `bytes` each suffix written so far begins.
    suffixes: Option<Vec<(u16, String)>>,
}

impl Names {
    /// For DNSSL (RFC 8106 §5.2) and DHCPv6 (RFC 8415 §10): compression is forbidden there.
    pub fn plain() -> Names {
        Names::default()
    }

    /// For DHCP option 119: pointers count from the start of the option's data (RFC 3397 §2).
    pub fn compressed() -> Names {
        Names { bytes: Vec::new(), suffixes: Some(Vec::new()) }
    }

    /// Appends `name` if it is a valid one and the list stays within `max` bytes; says whether it did. Trailing dots mean
    /// nothing here: the root label ends every name once.
    pub fn push(&mut self, name: &str, max: usize) -> bool {
        let Some(labels) = labels(name) else { return false };
        let start = self.bytes.len();
        let mut fresh = Vec::new();
        let mut pointer = None;
        for (i, label) in labels.iter().enumerate() {
            if let Some(known) = &self.suffixes {
                let suffix = labels[i..].join(".");
                if let Some((at, _)) = known.iter().find(|(_, s)| *s == suffix) {
                    pointer = Some(0xc000 | *at);
                    break;
                }
                // RFC 1035 §4.1.4: a pointer has 14 bits.
                if let Some(at) = u16::try_from(self.bytes.len()).ok().filter(|at| *at < 0x4000) {
                    fresh.push((at, suffix));
                }
            }
            self.bytes.push(label.len() as u8);
            self.bytes.extend_from_slice(label.as_bytes());
        }
        match pointer {
            Some(p) => self.bytes.extend_from_slice(&p.to_be_bytes()),
            None => self.bytes.push(0),
        }
        if self.bytes.len() > max {
            self.bytes.truncate(start);
            return false;
        }
        if let Some(known) = &mut self.suffixes {
            known.append(&mut fresh);
        }
        true
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// The wire form of one name, or `None` if it is not one.
pub fn encode(name: &str) -> Option<Vec<u8>> {
    let mut names = Names::plain();
    names.push(name, NAME_MAX).then_some(names.bytes)
}

fn labels(name: &str) -> Option<Vec<&str>> {
    let name = name.trim_end_matches('.');
    let ok = |l: &&str| !l.is_empty() && l.len() <= LABEL_MAX && l.bytes().all(|b| b.is_ascii_graphic());
    let labels: Vec<&str> = name.split('.').collect();
    (labels.iter().all(ok) && name.len() + 2 <= NAME_MAX).then_some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d6_one_root_label_however_many_dots() {
        let expect = b"\x07example\x03com\0".to_vec();
        for name in ["example.com", "example.com.", "example.com.."] {
            assert_eq!(encode(name), Some(expect.clone()), "{name}");
        }
        for name in ["", ".", "a..b", "a b", &"x".repeat(64), &"abc.".repeat(64)] {
            assert_eq!(encode(name), None, "{name}");
        }
    }

    #[test]
    fn compression_as_in_rfc_3397() {
        // The example of RFC 3397 §2, beside the letter case of its names.
        let mut n = Names::compressed();
        assert!(n.push("eng.apple.com", 255) && n.push("marketing.apple.com.", 255));
        assert_eq!(n.bytes(), b"\x03eng\x05apple\x03com\0\x09marketing\xc0\x04");
        assert!(n.push("apple.com", 255));
        assert!(n.bytes().ends_with(b"\xc0\x04"));
    }

    #[test]
    fn a_name_too_many_leaves_the_list_alone() {
        let mut n = Names::compressed();
        assert!(n.push("a.example", 11));
        assert!(!n.push("b.test", 11));
        assert!(!n.push("c.test", 18));
        assert_eq!(n.bytes(), b"\x01a\x07example\0");
    }
}
