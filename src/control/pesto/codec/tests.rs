//! Bytes as passt, pasta and pesto 0.0~git20261002.cba3570 exchange them.

use super::*;
use crate::fwd::ports::{Ports, Spec};

fn rules(proto: Proto, texts: &[&str]) -> Vec<Rule> {
    let specs = texts.iter().map(|text| Spec::parse(proto, text).unwrap()).collect();
    Ports::Specs(specs).rules(&(32768..=60999)).unwrap()
}

fn table(id: u8, name: &str, abilities: u32, rules: Vec<Rule>) -> Table {
    Table { id, name: name.into(), abilities: Abilities::from_bits_retain(abilities), rules }
}

/// Of hexadecimal digits; `*N` repeats the byte before it, N in all.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for word in text.split_whitespace() {
        match word.strip_prefix('*') {
            Some(n) => out.extend(std::iter::repeat_n(*out.last().unwrap(), n.parse::<usize>().unwrap() - 1)),
            None => out
                .extend(word.as_bytes().chunks(2).map(|d| u8::from_str_radix(str::from_utf8(d).unwrap(), 16).unwrap())),
        }
    }
    out
}

/// `passt -t 7000-7002:8000-8002 -t 127.0.0.1%lo/9000 -u [::1]/5300 -t 127.0.0.1/6001:10.1.1.1/6002`.
const PASST: &str = "626173696c3a7300 00000002 00000080 00000010 01 484f5354 00 *124 0000002f 00000004 \
    00 *16 00 *16 00 *16 1b58 1b5a 1f40 06 01 \
    00 *10 ffff 7f000001 00 *16 6c6f 00 *14 2328 2328 2328 06 00 \
    00 *15 01 00 *16 00 *16 14b4 14b4 14b4 11 00 \
    00 *10 ffff 7f000001 00 *10 ffff 0a010101 00 *16 1771 1771 1772 06 00 \
    00";

/// `pasta -t 7000-7002:8000-8002 -u auto -T 4100,auto -U none`.
const PASTA: &str = "626173696c3a7300 00000002 00000080 00000010 01 484f5354 00 *124 0000003f 00000003 \
    00 *16 00 *16 00 *16 1b58 1b5a 1f40 06 01 \
    00 *16 00 *16 00 *16 0001 7fff 0001 11 07 \
    00 *16 00 *16 00 *16 ee48 ffff ee48 11 07 \
    03 53504c494345 00 *122 0000003f 00000001 \
    00 *16 00 *16 6c6f 00 *14 1004 1004 1004 06 05 \
    00";

/// `pesto -T 4242,auto` to the latter.
const PESTO: &str = "01 00000003 \
    00 *16 00 *16 00 *16 1b58 1b5a 1f40 06 01 \
    00 *16 00 *16 00 *16 0001 7fff 0001 11 07 \
    00 *16 00 *16 00 *16 ee48 ffff ee48 11 07 \
    03 00000001 \
    00 *16 00 *16 6c6f 00 *14 1092 1092 1092 06 05 \
    00";

fn passt() -> Vec<Table> {
    let mut rules_of_all = rules(Proto::Tcp, &["7000-7002:8000-8002", "127.0.0.1%lo/9000"]);
    rules_of_all.extend(rules(Proto::Udp, &["[::1]/5300"]));
    rules_of_all.extend(rules(Proto::Tcp, &["127.0.0.1/6001:10.1.1.1/6002"]));
    vec![table(HOST, "HOST", 0x2f, rules_of_all)]
}

fn pasta(outbound: &str) -> Vec<Table> {
    let mut inbound = rules(Proto::Tcp, &["7000-7002:8000-8002"]);
    inbound.extend(rules(Proto::Udp, &["auto"]));
    let outbound = Spec::parse_outbound(Proto::Tcp, outbound).unwrap();
    let outbound = Ports::Specs(vec![outbound]).rules(&(32768..=60999)).unwrap();
    vec![table(HOST, "HOST", 0x3f, inbound), table(SPLICE, "SPLICE", 0x3f, outbound)]
}

fn updates(tables: Vec<Table>) -> Vec<Update> {
    tables.into_iter().map(|Table { id, rules, .. }| Update { id, rules }).collect()
}

#[test]
fn others_greetings_are_understood_and_said() {
    for (golden, tables) in [(PASST, passt()), (PASTA, pasta("4100,auto"))] {
        assert_eq!(read_hello(&bytes(golden)), Ok(Some(tables.clone())));
        assert_eq!(hello(&tables), Ok(bytes(golden)));
    }
    assert_eq!((bytes(PASST).len(), bytes(PASTA).len()), (20 + 137 + 4 * 56 + 1, 519));
}

#[test]
fn others_updates_are_understood_and_said() {
    let tables = pasta("4242,auto");
    assert_eq!(update(&tables), Ok(bytes(PESTO)));
    assert_eq!(read_update(&bytes(PESTO)), Ok(Some(updates(tables))));
    // `pesto -t none` to an instance of passt, and what leaves out every table.
    assert_eq!(read_update(&bytes("01 00000000 00")), Ok(Some(vec![Update { id: HOST, rules: vec![] }])));
    assert_eq!(read_update(&[0]), Ok(Some(vec![])));
}

#[test]
fn a_part_is_nothing_yet() {
    let (hello, update) = (bytes(PASTA), bytes(PESTO));
    for n in 0..hello.len() {
        assert_eq!(read_hello(&hello[..n]), Ok(None), "{n}");
    }
    for n in 0..update.len() {
        assert_eq!(read_update(&update[..n]), Ok(None), "{n}");
    }
    assert!(read_update(&[update, vec![1; 9]].concat()).unwrap().is_some());
}

#[test]
fn another_protocol_is_seen_at_once() {
    assert_eq!(read_hello(b"{\"json"), Err(Wrong::Magic));
    assert_eq!(read_hello(&bytes("626173696c3a7300 00000003 00000080 00000010")), Err(Wrong::Version(3)));
    assert_eq!(read_hello(&bytes("626173696c3a7300 00000002 00000040 00000010")), Err(Wrong::Sizes(64, 16)));
    assert_eq!(read_update(b"{\"jsonrpc\""), Err(Wrong::Rules(0x226a_736f)));
}

#[test]
fn tables_have_bounds() {
    assert_eq!(read_update(&bytes("01 ffffffff")), Err(Wrong::Rules(u32::MAX)));
    assert_eq!(read_update(&bytes("01 00000000 01 00000000")), Err(Wrong::Twice(1)));
    let nine: Vec<u8> = (1..=9).flat_map(|id| [id, 0, 0, 0, 0]).collect();
    assert_eq!(read_update(&nine), Err(Wrong::Tables));
    let many = vec![table(HOST, "HOST", 0, vec![rules(Proto::Tcp, &["80"])[0].clone(); RULES_MAX + 1])];
    assert_eq!((hello(&many), update(&many)), (Err(Wrong::Rules(1025)), Err(Wrong::Rules(1025))));
    let endless = bytes("626173696c3a7300 00000002 00000080 00000010 01 48 *128 0000003f 00000000 00");
    assert_eq!(read_hello(&endless), Err(Wrong::Name));
}

/// Each of them has made passt close the connection, but the last, which would make a socket that hears a group.
#[test]
fn rules_that_make_no_sense_are_refused() {
    for (rule, part) in [
        ("00 *16 00 *16 00 *16 1b61 1b5d 1b61 06 01", "range 7009-7005 ends before it begins"),
        ("00 *16 00 *16 00 *16 0000 0003 0001 06 01", "0 is not a port"),
        ("00 *16 00 *16 00 *16 1b58 1b5b fffe 06 01", "lead to 65534 and beyond 65535"),
        ("00 *16 00 *16 00 *16 1b58 1b58 1b58 01 01", "protocol 1 is neither"),
        ("00 *16 00 *16 00 *16 1b58 1b58 1b58 06 f8", "flags 0xf8"),
        ("00 *10 ffff 7f000001 00 *16 00 *16 1b58 1b58 1b58 06 01", "both IP versions, and at 127.0.0.1"),
        ("00 *16 00 *16 78 *16 1b58 1b58 1b58 06 01", "the name of its interface has no end"),
        ("00 *10 ffff 7f000001 fe80 00 *13 01 00 *16 1b58 1b58 1b58 06 00", "are not of one IP version"),
        ("00 *10 ffff e0000001 00 *16 00 *16 1b58 1b58 1b58 06 00", "224.0.0.1 is not the address of one host"),
    ] {
        let message = bytes(&format!("01 00000002 00 *16 00 *16 00 *16 1388 1388 1388 06 01 {rule} 00"));
        let wrong = read_update(&message).unwrap_err().to_string();
        assert!(wrong.contains("rule 2 of table 1: ") && wrong.contains(part), "{wrong}");
    }
}

#[test]
fn answers_are_told_from_silence() {
    let no = Err("port 80: Permission denied".to_string());
    assert_eq!(answer(&Ok(())), b"spelt:a\0\0\0\0\0");
    assert_eq!((read_answer(&answer(&Ok(()))), read_answer(&answer(&no))), (Some(Ok(())), Some(no)));
    assert_eq!(
        (read_answer(b""), read_answer(b"basil:s\0\0\0\0\0"), read_answer(b"spelt:a\0\0\0\0\x05no")),
        (None, None, None)
    );
    let long = read_answer(&answer(&Err("ü".repeat(ANSWER_BYTES_MAX)))).unwrap().unwrap_err();
    assert_eq!(long.len(), ANSWER_BYTES_MAX);
}
