//! Tables of text: columns as wide as what stands in them. Where the terminal is narrower, some are left out, some shortened in
//! their middle, and the last one cut.

use crate::sys::terminal::{self, harmless};

/// Rows of cells.
#[derive(Debug, Default)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns of numbers.
    right: Vec<usize>,
    /// Columns to leave out where there is no room, one after the other.
    least: Vec<usize>,
    /// Columns whose middle may go.
    elastic: Vec<usize>,
}

impl Table {
    pub fn new(head: &[&str]) -> Table {
        Table { head: head.iter().map(|h| (*h).to_owned()).collect(), ..Table::default() }
    }

    /// These columns are flush right.
    pub fn right(&mut self, columns: &[usize]) {
        self.right = columns.to_vec();
    }

    /// These columns are left out, one after the other, where there is no room.
    pub fn give_up(&mut self, columns: &[usize]) {
        self.least = columns.to_vec();
    }

    /// What stands in these columns may lose its middle where there is no room.
    pub fn shorten(&mut self, columns: &[usize]) {
        self.elastic = columns.to_vec();
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| harmless(&cell)).collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lines, with the head first if there is one. `width`: none is longer.
    pub fn render(&self, width: Option<usize>) -> String {
        let shown = self.layout(width.unwrap_or(usize::MAX));
        let mut text = String::new();
        for row in self.all() {
            let mut line = String::new();
            for (nth, (column, room)) in shown.iter().enumerate() {
                let Some(cell) = row.get(*column) else { continue };
                let cell = without_middle(cell, *room);
                let pad = " ".repeat(room - cell.chars().count());
                let gap = if nth == 0 { "" } else { "  " };
                let (before, after) =
                    if self.right.contains(column) { (pad, String::new()) } else { (String::new(), pad) };
                line.push_str(&format!("{gap}{before}{cell}{after}"));
            }
            let line = line.trim_end();
            match width {
                Some(width) if line.chars().count() > width => {
                    text.extend(line.chars().take(width.saturating_sub(1)));
                    text.push('…');
                }
                _ => text.push_str(line),
            }
            text.push('\n');
        }
        text
    }

    fn all(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.head).filter(|h| !h.is_empty()).chain(&self.rows)
    }

    /// The columns that are shown, and how wide each is.
    fn layout(&self, width: usize) -> Vec<(usize, usize)> {
        let columns = self.all().map(Vec::len).max().unwrap_or(0);
        let widest = |column: usize| {
            self.all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut shown: Vec<(usize, usize)> = (0..columns).map(|column| (column, widest(column))).collect();
        let spare = |room: usize| room.saturating_sub(ELASTIC_MIN);
        let elastic = |shown: &[(usize, usize)]| {
            shown.iter().filter(|(c, _)| self.elastic.contains(c)).map(|(_, room)| spare(*room)).sum::<usize>()
        };
        let needed = |shown: &[(usize, usize)]| shown.iter().map(|(_, room)| room + 2).sum::<usize>().saturating_sub(2);
        for least in &self.least {
            if needed(&shown) <= width.saturating_add(elastic(&shown)) {
                break;
            }
            shown.retain(|(column, _)| column != least);
        }
        while needed(&shown) > width {
            let widest = shown.iter_mut().filter(|(c, room)| self.elastic.contains(c) && spare(*room) > 0);
            match widest.max_by_key(|(_, room)| *room) {
                Some((_, room)) => *room -= 1,
                None => break,
            }
        }
        shown
    }
}

/// An IPv4 address with its port, and its like.
const ELASTIC_MIN: usize = 21;

/// The beginning, and the end, which of an address with a port says most.
fn without_middle(text: &str, room: usize) -> String {
    let len = text.chars().count();
    if len <= room {
        return text.to_owned();
    }
    let end = room.saturating_sub(1) / 2;
    let begin = room.saturating_sub(1) - end;
    let (head, tail): (String, String) = (text.chars().take(begin).collect(), text.chars().skip(len - end).collect());
    format!("{head}…{tail}")
}

/// In parts of at most `room` characters, whole words where there are any.
pub fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > room {
        let at = rest[..room].iter().rposition(|c| matches!(c, ' ' | ',')).map_or(room, |at| at + 1);
        parts.push(rest.drain(..at).collect::<String>().trim_end().to_owned());
    }
    parts.push(rest.into_iter().collect());
    parts
}

/// Columns and lines of the terminal on standard output; `None`: it is none.
pub fn size() -> Option<(usize, usize)> {
    terminal::size(&std::io::stdout())
}

pub fn width() -> Option<usize> {
    size().map(|(columns, _)| columns)
}

/// `1.2 GB`: three digits, decimal units.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 99.95 { 0 } else { usize::from(value < 9.995) + 1 };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `1d 2h`, `3m 4s`, `5.6s`: the two largest units.
pub fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d {}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_long_lines_cut() {
        let mut table = Table::new(&["NAME", "N"]);
        table.right(&[1]);
        table.row(["a".into(), "100".into()]);
        table.row(["longer\x1b[2J".into(), "7".into()]);
        assert_eq!(table.render(None), "NAME          N\na           100\nlonger?[2J    7\n");
        assert_eq!(table.render(Some(8)), "NAME   …\na      …\nlonger?…\n");
        assert_eq!(Table::new(&[]).render(None), "");
    }

    #[test]
    fn a_narrow_terminal_gets_what_says_most() {
        let mut table = Table::new(&["NAME", "ADDRESS", "A", "B", "LAST"]);
        table.give_up(&[3, 2]);
        table.shorten(&[1]);
        table.row(["tcp", "[2001:db8:1234:5678:9abc:def0:1:2]:40000", "1 us", "2", "guest's window"].map(Into::into));
        let whole = "NAME  ADDRESS                                   A     B  LAST\n\
                     tcp   [2001:db8:1234:5678:9abc:def0:1:2]:40000  1 us  2  guest's window\n";
        assert_eq!(table.render(Some(80)), whole);
        let last = |width| table.render(Some(width)).lines().last().unwrap().to_owned();
        assert_eq!(last(60), "tcp   [2001:db8:1234…ef0:1:2]:40000  1 us  2  guest's window");
        let narrow = format!("NAME  {:<22}  LAST\ntcp   [2001:db8:1…1:2]:40000  guest's window\n", "ADDRESS");
        assert_eq!(table.render(Some(44)), narrow);
        for width in 1..80 {
            let text = table.render(Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        }
    }

    #[test]
    fn long_values_go_on_below() {
        assert_eq!(wrapped("one two,three", usize::MAX), ["one two,three"]);
        assert_eq!(wrapped("one two,three", 8), ["one two,", "three"]);
        assert_eq!(wrapped("abcdefg", 3), ["abc", "def", "g"]);
        assert_eq!(wrapped("", 3), [""]);
    }

    #[test]
    fn figures_for_people() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_600, "1.00 MB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
        for (s, text) in [(0.0, "0.0s"), (59.9, "59.9s"), (61.0, "1m 1s"), (7260.0, "2h 1m"), (90_000.0, "1d 1h")] {
            assert_eq!(duration(s), text);
        }
    }
}
