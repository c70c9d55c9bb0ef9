//! A place in a text, and the words, names, strings, numbers and types that are read from it.

use super::fault::Fault;
use crate::ir::quote::is_plain;
use crate::ir::types::{DType, MAX_RANK, Type};
use crate::layout::Progression;
use std::borrow::Cow;
use std::ops::Range;
use std::str::FromStr;

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

/// Reads `text` from `pos` to `end`.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    /// The next byte.
    pub(super) pos: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    /// Reads all of a text.
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, pos: 0, end: text.len() }
    }

    /// Reads a part of the same text.
    pub(super) fn part(&self, at: Range<usize>) -> Cursor<'a> {
        Cursor { text: self.text, pos: at.start, end: at.end }
    }

    /// The next byte; `None` at the end.
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes()[..self.end].get(self.pos).copied()
    }

    /// Whether nothing is left.
    pub(super) fn at_end(&self) -> bool {
        self.pos >= self.end
    }

    /// Everything up to the end.
    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.pos..self.end).unwrap_or("")
    }

    /// Passes one byte; only ASCII, so that the place stays between characters.
    pub(super) fn eat(&mut self, b: u8) -> bool {
        let there = self.peek() == Some(b);
        self.pos += usize::from(there);
        there
    }

    /// Passes the longest run of ASCII bytes that `f` takes.
    pub(super) fn run(&mut self, f: impl Fn(u8) -> bool) -> &'a str {
        let start = self.pos;
        while self.peek().is_some_and(|b| b.is_ascii() && f(b)) {
            self.pos += 1;
        }
        &self.text[start..self.pos]
    }

    /// Passes a word; empty if there is none.
    pub(super) fn word(&mut self) -> &'a str {
        if self.peek().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_') { self.run(is_word) } else { "" }
    }

    /// Passes this word.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let start = self.pos;
        let there = self.word() == word;
        if !there {
            self.pos = start;
        }
        there
    }

    /// Passes blanks and comments within a line.
    pub(super) fn spaces(&mut self) {
        loop {
            self.run(|b| matches!(b, b' ' | b'\t' | b'\r'));
            if !self.rest().starts_with("//") {
                return;
            }
            self.pos = self.rest().find('\n').map_or(self.end, |i| self.pos + i);
        }
    }

    /// Passes blanks, comments and ends of lines.
    pub(super) fn blank(&mut self) {
        self.spaces();
        while self.eat(b'\n') {
            self.spaces();
        }
    }

    /// What was expected here, and what stands here instead.
    pub(super) fn expected(&self, what: &str) -> Fault {
        let mut probe = self.clone();
        let label = match self.rest().chars().next() {
            None if self.end == self.text.len() => "found the end of the text".to_owned(),
            None => "found the end".to_owned(),
            Some('\n') => "found the end of the line".to_owned(),
            Some(c) => {
                let joins = |c: char| c.is_alphanumeric() || u8::try_from(c).is_ok_and(is_plain);
                let tail = &self.rest()[c.len_utf8()..];
                probe.pos += c.len_utf8();
                if joins(c) || c == '%' {
                    probe.pos += tail.find(|c| !joins(c)).unwrap_or(tail.len());
                }
                format!("found `{}`", &self.text[self.pos..probe.pos])
            }
        };
        Fault::new(self.pos..probe.pos, format!("expected {what}"), label)
    }

    /// Passes blanks, then one byte that must stand there.
    pub(super) fn expect(&mut self, b: u8, what: &str) -> Result<(), Fault> {
        self.spaces();
        if self.eat(b) { Ok(()) } else { Err(self.expected(what)) }
    }

    /// Passes the end of a line.
    pub(super) fn end_of_line(&mut self, what: &str) -> Result<(), Fault> {
        self.spaces();
        if self.at_end() || self.eat(b'\n') { Ok(()) } else { Err(self.expected(what)) }
    }

    /// Passes items with commas between them, and the byte that closes the list. Lines may end within.
    pub(super) fn list(
        &mut self,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.blank();
        if self.eat(close) {
            return Ok(());
        }
        loop {
            item(self)?;
            self.blank();
            if self.eat(close) {
                return Ok(());
            }
            if !self.eat(b',') {
                return Err(self.expected(&format!("`,` or `{}`", char::from(close))));
            }
            self.blank();
        }
    }

    /// Passes `%name`.
    pub(super) fn name(&mut self, what: &str) -> Result<Cow<'a, str>, Fault> {
        self.spaces();
        let start = self.pos;
        if !self.eat(b'%') {
            return Err(self.expected(what));
        }
        if self.peek() == Some(b'"') {
            return self.string("a name");
        }
        // A colon ends a list of names.
        let name = self.run(is_plain).trim_end_matches(':');
        self.pos = start + 1 + name.len();
        if name.is_empty() {
            return Err(self.expected("a name of letters, digits and `_./:-$`, or a name in quotes"));
        }
        Ok(Cow::Borrowed(name))
    }

    /// Passes a string in quotes.
    pub(super) fn string(&mut self, what: &str) -> Result<Cow<'a, str>, Fault> {
        self.spaces();
        let open = self.pos;
        if !self.eat(b'"') {
            return Err(self.expected(&format!("{what} in quotes")));
        }
        let mut out = Cow::Borrowed("");
        loop {
            let from = self.pos;
            let stop = self.rest().find(|c: char| c == '"' || c == '\\' || c.is_control());
            let Some(stop) = stop else {
                return Err(Fault::new(open..open + 1, "expected a closing quote", "of this string"));
            };
            self.pos += stop;
            let piece = &self.text[from..self.pos];
            if out.is_empty() {
                out = Cow::Borrowed(piece);
            } else {
                out.to_mut().push_str(piece);
            }
            match self.peek() {
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.to_mut().push(self.escape()?),
                _ => return Err(self.expected("a closing quote, or an escape such as `\\n`")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let start = self.pos;
        self.pos += 1;
        let c = match self.peek() {
            Some(b'n') => Some('\n'),
            Some(b'r') => Some('\r'),
            Some(b't') => Some('\t'),
            Some(b'0') => Some('\0'),
            Some(b @ (b'\\' | b'"' | b'\'')) => Some(char::from(b)),
            Some(b'u') => {
                let body = &self.rest()[1..];
                let hex = body.strip_prefix('{').and_then(|t| t.split_once('}')).map(|(hex, _)| hex);
                let hex = hex.filter(|h| (1..=6).contains(&h.len()));
                self.pos += hex.map_or(0, |h| h.len() + 2);
                hex.and_then(|h| u32::from_str_radix(h, 16).ok()).and_then(char::from_u32)
            }
            _ => None,
        };
        let Some(c) = c else {
            let wanted = "expected an escape: one of \\n \\r \\t \\0 \\\\ \\\" \\' \\u{…}";
            return Err(Fault::new(start..start + 1, wanted, "found another"));
        };
        self.pos += 1;
        Ok(c)
    }

    /// Passes a number of type `T`.
    pub(super) fn number<T: FromStr>(&mut self, what: &str) -> Result<T, Fault> {
        self.spaces();
        let start = self.pos;
        let text = self.run(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        text.parse().map_err(|_| {
            self.pos = start;
            self.expected(what)
        })
    }

    /// Passes a natural number.
    pub(super) fn natural(&mut self) -> Result<usize, Fault> {
        self.spaces();
        let start = self.pos;
        let digits = self.run(|b| b.is_ascii_digit());
        digits.parse().map_err(|_| {
            self.pos = start;
            self.expected("a number from 0 to 2^64 - 1")
        })
    }

    /// Passes `[1,2,3]`.
    pub(super) fn naturals(&mut self, what: &str) -> Result<Vec<usize>, Fault> {
        self.expect(b'[', what)?;
        let mut out = Vec::new();
        self.list(b']', |c| {
            out.push(c.natural()?);
            Ok(())
        })?;
        Ok(out)
    }

    /// Passes `[0:4,28:4]`: row progressions, start, length and step.
    pub(super) fn rows(&mut self) -> Result<Vec<Progression>, Fault> {
        self.expect(b'[', "rows such as `[0:4,28:4]`")?;
        let mut out = Vec::new();
        self.list(b']', |c| {
            let start = c.natural()?;
            c.expect(b':', "`:` and a number of rows")?;
            let len = c.natural()?;
            let step = if c.eat(b':') { c.natural()? } else { 1 };
            out.push(Progression { start, len, step });
            Ok(())
        })?;
        Ok(out)
    }

    /// Passes a type such as `f32[2,3]`.
    pub(super) fn ty(&mut self) -> Result<Type, Fault> {
        self.spaces();
        let start = self.pos;
        let Some(dtype) = DType::from_name(self.word()) else {
            self.pos = start;
            return Err(self.expected("a type such as `f32[2,3]`, of f64, f32, f16, bf16, i64, i32 or bool"));
        };
        let ty = Type::new(dtype, self.naturals("the extents of the type, such as `[2,3]`")?);
        if ty.rank() > MAX_RANK {
            return Err(Fault::new(
                start..self.pos,
                format!("expected at most {MAX_RANK} axes"),
                "found more",
            ));
        }
        if ty.checked_elements().is_none() {
            return Err(Fault::new(start..self.pos, "expected at most 2^56 elements", "found more"));
        }
        Ok(ty)
    }
}
