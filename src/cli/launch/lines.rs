//! What ranks print, passed on in whole lines that begin with the rank.

use std::io::{Read, Write};

/// A line that is longer comes in pieces, each a line of its own.
const LONGEST: usize = 64 << 10;

/// Passes on whatever comes until its end, bytes as they are. What `to` does not take is dropped: the ranks go on.
pub(super) fn pass(mut from: impl Read, mut to: impl Write, rank: u32) {
    let mut piece = vec![0; 16 << 10];
    let (mut begun, mut out) = (vec![], vec![]);
    loop {
        let n = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for part in piece[..n].split_inclusive(|b| *b == b'\n') {
            begun.extend_from_slice(part);
            if part.ends_with(b"\n") || begun.len() >= LONGEST {
                line(&mut out, &mut begun, rank);
            }
        }
        let _ = to.write_all(&out).and_then(|()| to.flush());
        out.clear();
    }
    if !begun.is_empty() {
        line(&mut out, &mut begun, rank);
        let _ = to.write_all(&out).and_then(|()| to.flush());
    }
}

/// The line with its rank before it and an end behind it.
fn line(out: &mut Vec<u8>, begun: &mut Vec<u8>, rank: u32) {
    out.extend_from_slice(format!("[{rank}] ").as_bytes());
    out.append(begun);
    if !out.ends_with(b"\n") {
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(text: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        pass(text, &mut out, 2);
        out
    }

    #[test]
    fn lines_begin_with_the_rank_and_bytes_stay_as_they_are() {
        assert_eq!(passed(b""), b"");
        assert_eq!(passed(b"one\n\ntwo"), b"[2] one\n[2] \n[2] two\n");
        assert_eq!(passed(b"\xff\x1b[31m\0\r\n"), b"[2] \xff\x1b[31m\0\r\n");
    }

    #[test]
    fn a_line_without_an_end_takes_bounded_memory() {
        let out = passed(&vec![b'x'; 200_000]);
        let lines: Vec<&[u8]> = out.split_inclusive(|b| *b == b'\n').collect();
        assert!(lines.iter().all(|l| l.starts_with(b"[2] x") && l.len() <= LONGEST + (16 << 10) + 5));
        assert_eq!(out.iter().filter(|b| **b == b'x').count(), 200_000);
        assert_eq!(lines.len(), 4);
    }
}
