use super::*;
use crate::config::pesto::Given;
use crate::fwd::Side;
use crate::fwd::ports::Spec;

const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

/// Words as on the command line.
fn steps(line: &str) -> Vec<Step> {
    let mut words = line.split_whitespace();
    let mut steps = Vec::new();
    while let Some(option) = words.next() {
        let (proto, on) = match option {
            "-A" => {
                steps.push(Step::Add);
                continue;
            }
            "-D" => {
                steps.push(Step::Delete);
                continue;
            }
            "-C" => {
                steps.push(Step::Clear(words.next().unwrap().into()));
                continue;
            }
            "-t" => (Proto::Tcp, Side::Host),
            "-u" => (Proto::Udp, Side::Host),
            "-T" => (Proto::Tcp, Side::Guest),
            _ => (Proto::Udp, Side::Guest),
        };
        let text = words.next().unwrap();
        let spec = match on {
            _ if text == "none" => None,
            Side::Host => Some(Spec::parse(proto, text).unwrap()),
            Side::Guest => Some(Spec::parse_outbound(proto, text).unwrap()),
        };
        steps.push(Step::Ports(Given { proto, on, option: option.into(), text: text.into(), spec }));
    }
    steps
}

fn table(id: u8, name: &str) -> Table {
    Table { id, name: name.into(), abilities: Abilities::all(), rules: Vec::new() }
}

/// What is forwarded after the first line and then the second, without blanks: `HOST TCP80 UDP90; SPLICE TCP70`.
fn after(first: &str, line: &str) -> Result<String, String> {
    let mut tables = [table(codec::HOST, "HOST"), table(codec::SPLICE, "SPLICE")];
    apply(&mut tables, &steps(first), &EPHEMERAL).unwrap();
    apply(&mut tables, &steps(line), &EPHEMERAL)?;
    let one = |r: &Rule| {
        let proto = if r.proto == Proto::Tcp { "TCP" } else { "UDP" };
        let to = if r.target_first == r.first { String::new() } else { format!(":{}", r.target_first) };
        format!(" {proto}{}{to}", r.first)
    };
    let text = |t: &Table| format!("{}{}", t.name, t.rules.iter().map(one).collect::<String>());
    Ok(tables.iter().map(text).collect::<Vec<_>>().join("; "))
}

/// As pesto does it, but for the last lines, which it refuses.
#[test]
fn steps_are_done_in_their_order() {
    for (line, expected) in [
        ("-t 1", "HOST TCP1; SPLICE TCP70"),
        ("-t 1 -t 2", "HOST TCP1 TCP2; SPLICE TCP70"),
        ("-t 1 -u 2", "HOST TCP1 UDP2; SPLICE TCP70"),
        ("-u 1", "HOST UDP1; SPLICE TCP70"),
        ("-U 1", "HOST TCP80 UDP90; SPLICE UDP1"),
        ("-t 1 -A -t 2", "HOST TCP1 TCP2; SPLICE TCP70"),
        ("-t 1 -A -u 2 -D -t 1", "HOST UDP2; SPLICE TCP70"),
        ("-A -t 1 -t 2:3", "HOST TCP80 UDP90 TCP1 TCP2:3; SPLICE TCP70"),
        ("-C HOST -t 1", "HOST TCP1; SPLICE TCP70"),
        ("-t 1 -C HOST -t 2", "HOST TCP2; SPLICE TCP70"),
        ("-C SPLICE -t 1", "HOST TCP1; SPLICE"),
        ("-C HOST -T 1", "HOST; SPLICE TCP1"),
        ("-A -t 2000 -C HOST -A -T 3000 -t 2001", "HOST TCP2001; SPLICE TCP70 TCP3000"),
        ("-D -T 70 -u 90", "HOST TCP80; SPLICE"),
        ("-t none", "HOST; SPLICE TCP70"),
        ("-A -t none", "HOST TCP80 UDP90; SPLICE TCP70"),
        ("-A", "HOST TCP80 UDP90; SPLICE TCP70"),
        ("-A -t 80", "HOST TCP80 UDP90; SPLICE TCP70"),
        ("-D -t 80 -A -t 80", "HOST UDP90 TCP80; SPLICE TCP70"),
        ("-t 1 -t 1", "HOST TCP1; SPLICE TCP70"),
    ] {
        assert_eq!(after("-t 80 -u 90 -T 70", line).as_deref(), Ok(expected), "{line}");
    }
}

#[test]
fn what_cannot_be_done_is_told() {
    for (line, expected) in [
        ("-D -t 81", "TCP [*]:81  =>  81 cannot be deleted: it is not in the table HOST"),
        ("-D -t 80:81", "; TCP [*]:80  =>  80 is, and can be deleted as a whole"),
        ("-D -t 79-81", "; TCP [*]:80  =>  80 is, and can be deleted as a whole"),
        ("-t 1 -D -t 80", "it is not in the table HOST"),
        ("-A -t 127.0.0.1/80", "TCP [127.0.0.1]:80  =>  80 cannot be added: TCP [*]:80  =>  80 is there"),
        ("-C host", "there is no table 'host': give one of HOST, SPLICE"),
        ("-A -t 5,5", "'-t 5,5': port 5 occurs twice"),
    ] {
        let why = after("-t 80 -u 90 -T 70", line).unwrap_err();
        assert!(why.contains(expected), "{line}: {why}");
    }
}

#[test]
fn rules_are_what_the_instance_can_do() {
    let with = |without: Abilities, line: &str| {
        let mut tables = [Table { abilities: Abilities::all() - without, ..table(codec::HOST, "HOST") }];
        apply(&mut tables, &steps(line), &EPHEMERAL).map(|()| tables[0].rules[0].summary())
    };
    for (without, line, expected) in [
        (Abilities::V6, "-t 80", Ok("TCP [0.0.0.0]:80  =>  80")),
        (Abilities::V4, "-t all", Ok("TCP [::]:1-32767  =>  1-32767  (best effort)")),
        (Abilities::V4, "-t 0.0.0.0/80", Err("IP version switched off")),
        (Abilities::UDP, "-u 80", Err("protocol switched off")),
        (Abilities::AUTO, "-t 80,auto", Err("'auto' is for namespaces")),
        (Abilities::DEVICES, "-t %eth0/80", Err("one interface only")),
        (Abilities::empty(), "-T 80", Err("no namespace to forward from")),
    ] {
        match (with(without, line), expected) {
            (Ok(summary), Ok(expected)) => assert_eq!(summary, expected),
            (Err(why), Err(part)) => assert!(why.contains(part), "{line}: {why}"),
            (got, _) => panic!("{line}: {got:?}"),
        }
    }
}
