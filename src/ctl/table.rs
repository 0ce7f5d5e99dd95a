//! Tables of text: columns as wide as what stands in them, the last one cut to the terminal.

/// Rows of cells.
#[derive(Debug, Default)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns of numbers.
    right: Vec<usize>,
}

impl Table {
    pub fn new(head: &[&str]) -> Table {
        Table { head: head.iter().map(|h| (*h).to_owned()).collect(), ..Table::default() }
    }

    /// These columns are flush right.
    pub fn right(&mut self, columns: &[usize]) {
        self.right = columns.to_vec();
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lines, with the head first if there is one. `width`: longer lines are cut.
    pub fn render(&self, width: Option<usize>) -> String {
        let all = || std::iter::once(&self.head).filter(|h| !h.is_empty()).chain(&self.rows);
        let columns = all().map(Vec::len).max().unwrap_or(0);
        let widest = |column: usize| {
            all().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(widest).collect();
        let mut text = String::new();
        for row in all() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                let gap = if column == 0 { "" } else { "  " };
                let (before, after) =
                    if self.right.contains(&column) { (pad, String::new()) } else { (String::new(), pad) };
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
}

/// Nothing that a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Columns and lines of the terminal on standard output; `None`: it is none.
pub fn size() -> Option<(usize, usize)> {
    crate::sys::terminal::size(&std::io::stdout())
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
        assert_eq!(table.render(None), "NAME          N\na           100\nlonger [2J    7\n");
        assert_eq!(table.render(Some(8)), "NAME   …\na      …\nlonger …\n");
        assert_eq!(Table::new(&[]).render(None), "");
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
