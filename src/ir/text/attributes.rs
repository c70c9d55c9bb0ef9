//! Attributes in braces, as they are found and taken by their keys.

use super::cursor::Cursor;
use super::fault::Fault;
use crate::layout::Progression;
use std::ops::Range;

/// No operation has more attributes.
const MAX_ATTRIBUTES: usize = 16;

/// Attributes as found, each to be taken by its key.
pub(super) struct Attributes<'a> {
    cursor: Cursor<'a>,
    items: Vec<Item<'a>>,
    /// The mnemonic and where it stands.
    pub(super) op: &'a str,
    /// Where the mnemonic stands.
    pub(super) at: Range<usize>,
    /// The braces, or an empty range behind the operands.
    braces: Range<usize>,
}

struct Item<'a> {
    key: &'a str,
    at: Range<usize>,
    value: Option<Range<usize>>,
    taken: bool,
}

impl<'a> Attributes<'a> {
    /// Reads `{…}` if it stands here. Values are found by their brackets, and read when they are taken.
    pub(super) fn read(c: &mut Cursor<'a>, op: &'a str, at: Range<usize>) -> Result<Attributes<'a>, Fault> {
        c.spaces();
        let start = c.pos;
        let mut out = Attributes { cursor: c.clone(), items: Vec::new(), op, at, braces: start..start };
        if c.eat(b'{') {
            if op == "contract" {
                // Axis letters, with a comma of their own.
                let from = c.pos;
                c.run(|b| b != b'}' && b != b'\n');
                out.items.push(Item { key: "axes", at: from..c.pos, value: Some(from..c.pos), taken: false });
                c.expect(b'}', "axes such as `{bij,bjk->bik}`")?;
            } else {
                c.list(b'}', |c| out.item(c))?;
            }
            out.braces = start..c.pos;
        }
        Ok(out)
    }

    fn item(&mut self, c: &mut Cursor<'a>) -> Result<(), Fault> {
        let start = c.pos;
        let key = c.word();
        let at = start..c.pos;
        if key.is_empty() {
            return Err(c.expected("an attribute such as `axis=1`"));
        }
        if self.items.iter().any(|i| i.key == key) {
            return Err(Fault::new(at, "expected each attribute once", "stands here again"));
        }
        if self.items.len() == MAX_ATTRIBUTES {
            return Err(Fault::new(
                at,
                format!("expected at most {MAX_ATTRIBUTES} attributes"),
                "found more",
            ));
        }
        let value = if c.eat(b'=') { Some(skip_value(c)?) } else { None };
        self.items.push(Item { key, at, value, taken: false });
        Ok(())
    }

    /// Whether a word without a value stands there.
    pub(super) fn flag(&mut self, key: &str) -> bool {
        let item = self.items.iter_mut().find(|i| i.key == key && i.value.is_none());
        item.map(|i| i.taken = true).is_some()
    }

    /// The value of `key` as `read` reads it, or `None` if it is not given.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Cursor<'a>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        let Some(item) = self.items.iter_mut().find(|i| i.key == key) else { return Ok(None) };
        item.taken = true;
        let Some(value) = item.value.clone() else {
            return Err(Fault::new(item.at.clone(), format!("expected a value: `{key}=…`"), "has none"));
        };
        let mut c = self.cursor.part(value);
        let out = read(&mut c)?;
        c.blank();
        if c.at_end() { Ok(Some(out)) } else { Err(c.expected("`,` or `}`")) }
    }

    /// The value of `key` as `read` reads it.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Cursor<'a>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match self.optional(key, read)? {
            Some(x) => Ok(x),
            None => Err(self.missing(&format!("the attribute `{key}` of {}", self.op))),
        }
    }

    /// What is said where something is not given.
    pub(super) fn missing(&self, what: &str) -> Fault {
        let empty = self.braces.is_empty();
        let at = if empty { self.at.clone() } else { self.braces.clone() };
        Fault::new(
            at,
            format!("expected {what}"),
            if empty { "has no attributes" } else { "not among these" },
        )
    }

    /// A number.
    pub(super) fn natural(&mut self, key: &str) -> Result<usize, Fault> {
        self.required(key, Cursor::natural)
    }

    /// A list of numbers.
    pub(super) fn list(&mut self, key: &str) -> Result<Vec<usize>, Fault> {
        self.required(key, |c| c.naturals("a list such as `[0,1]`"))
    }

    /// Row progressions.
    pub(super) fn rows(&mut self, key: &str) -> Result<Vec<Progression>, Fault> {
        self.required(key, Cursor::rows)
    }

    /// Row progressions of each rank.
    pub(super) fn row_lists(&mut self, key: &str) -> Result<Vec<Vec<Progression>>, Fault> {
        self.required(key, |c| {
            let mut out = Vec::new();
            c.expect(b'[', "the rows of each rank, such as `[[0:4],[4:4]]`")?;
            c.list(b']', |c| {
                out.push(c.rows()?);
                Ok(())
            })?;
            Ok(out)
        })
    }

    /// One of a set of words, named in the error.
    pub(super) fn word<T>(
        &mut self,
        key: &str,
        all: &[T],
        name: impl Fn(&T) -> &'static str,
    ) -> Result<T, Fault>
    where
        T: Copy,
    {
        self.required(key, |c| {
            c.spaces();
            let start = c.pos;
            let word = c.word();
            all.iter().copied().find(|x| name(x) == word).ok_or_else(|| {
                c.pos = start;
                let names: Vec<&str> = all.iter().map(&name).collect();
                c.expected(&format!("one of {}", names.join(", ")))
            })
        })
    }

    /// Refuses what nobody has taken.
    pub(super) fn all_taken(&self) -> Result<(), Fault> {
        match self.items.iter().find(|i| !i.taken) {
            None => Ok(()),
            Some(i) => {
                let title = format!("expected an attribute of {}", self.op);
                Err(Fault::new(i.at.clone(), title, "is none, or not in this form"))
            }
        }
    }
}

/// Passes a value: up to the comma or brace that is in no bracket, parenthesis or string.
fn skip_value(c: &mut Cursor<'_>) -> Result<Range<usize>, Fault> {
    let start = c.pos;
    let mut depth = 0usize;
    loop {
        match c.peek() {
            None | Some(b'\n') if depth == 0 => break,
            None => return Err(c.expected("a closing bracket")),
            Some(b',' | b'}') if depth == 0 => break,
            Some(b'"') => {
                c.string("a string")?;
                continue;
            }
            Some(b'(' | b'[') => depth += 1,
            Some(b')' | b']') => depth = depth.saturating_sub(1),
            Some(_) => {}
        }
        // Bytes of a longer character are passed one by one and end on a delimiter, which is ASCII.
        c.pos += 1;
    }
    Ok(start..c.pos)
}
