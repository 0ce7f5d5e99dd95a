//! What somebody may have meant who mistyped an option.

/// The word that is nearest, if it is near: one slip in three letters.
pub(super) fn nearest<'a>(typed: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = words.map(|w| (slips(typed.as_bytes(), w.as_bytes()), w)).min_by_key(|(slips, _)| *slips);
    near.filter(|(slips, word)| *slips <= (word.len() / 3).max(1)).map(|(_, word)| word)
}

/// Letters left out, added, changed, or swapped with their neighbour (optimal string alignment distance).
fn slips(a: &[u8], b: &[u8]) -> usize {
    let mut before = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                let swapped: &Vec<usize> = &before;
                least = least.min(swapped[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted() {
        for (a, b, count) in [("", "", 0), ("", "ab", 2), ("mtu", "mtu", 0), ("mut", "mtu", 1), ("mtus", "mtu", 1)] {
            assert_eq!(
                (slips(a.as_bytes(), b.as_bytes()), slips(b.as_bytes(), a.as_bytes())),
                (count, count),
                "{a} {b}"
            );
        }
        assert_eq!(slips(b"kitten", b"sitting"), 3);
    }

    #[test]
    fn only_near_words_are_suggested() {
        let of = |typed| nearest(typed, ["mtu", "map-guest-addr", "check", "tcp-ports", "tcp-ns"].into_iter());
        assert_eq!(of("mut"), Some("mtu"));
        assert_eq!(of("chekc"), Some("check"));
        assert_eq!(of("tcp-prots"), Some("tcp-ports"));
        assert_eq!(of("map-guest-address"), Some("map-guest-addr"));
        assert_eq!((of("x"), of("bogus"), of("é")), (None, None, None));
    }
}
