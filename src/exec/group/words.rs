//! The words of which messages are made: numbers with the least byte first, bytes behind their number, text that is cut where it is long.
//!
//! Whatever comes in is read by [`Reader`], which gives `None` where bytes are missing; it allocates no more than there are bytes.

/// The text, cut at the border of a character where it has more than `most` bytes, with a mark that it was cut.
pub(super) fn bounded(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mark = "…";
    let mut end = most.saturating_sub(mark.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{mark}", &text[..end])
}

pub(super) fn put_number(out: &mut Vec<u8>, number: usize) {
    // No number of this protocol is larger: ranks, steps, lengths. What is, is said as the largest.
    out.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Reads words from the front of bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(front)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub(super) fn number(&mut self) -> Option<usize> {
        let bytes: [u8; 4] = self.take(4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.number()?;
        self.take(n)
    }

    /// Text of at most so many bytes.
    pub(super) fn text(&mut self, most: usize) -> Option<String> {
        let bytes = self.bytes().filter(|b| b.len() <= most)?;
        String::from_utf8(bytes.to_vec()).ok()
    }

    /// Numbers behind their number.
    pub(super) fn numbers(&mut self) -> Option<Vec<usize>> {
        let n = self.number()?;
        let mut bytes = Reader(self.take(n.checked_mul(4)?)?);
        (0..n).map(|_| bytes.number()).collect()
    }

    /// `value`, if nothing is left.
    pub(super) fn end<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

/// Ranks for people: `rank 3`, `ranks 0 to 2 and 5`.
pub(super) fn name_ranks(ranks: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = vec![];
    for &rank in ranks {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            _ => runs.push((rank, rank)),
        }
    }
    let mut words = vec![];
    for (first, last) in runs {
        match last - first {
            0 => words.push(first.to_string()),
            1 => words.extend([first.to_string(), last.to_string()]),
            _ => words.push(format!("{first} to {last}")),
        }
    }
    let last = words.pop().unwrap_or_default();
    let many = if ranks.len() == 1 { "rank" } else { "ranks" };
    if words.is_empty() {
        format!("{many} {last}")
    } else {
        format!("{many} {} and {last}", words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_and_ranks_are_runs() {
        assert_eq!(bounded("long", 4), "long");
        assert_eq!(bounded("ääää", 6), "ä…");
        assert_eq!(bounded("ääää", 1), "…");
        assert_eq!(name_ranks(&[3]), "rank 3");
        assert_eq!(name_ranks(&[0, 1, 2, 5]), "ranks 0 to 2 and 5");
        assert_eq!(name_ranks(&[0, 1, 4]), "ranks 0, 1 and 4");
    }
}
