//! The words and numbers of a text, and what is said where it is wrong.

use super::chars::{bare, unsafe_to_show};
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// What is wrong, and where.
pub(super) struct Fault {
    at: usize,
    end: usize,
    message: String,
}

pub(super) type Parsed<T> = Result<T, Fault>;

/// A text and how far it is read.
pub(super) struct Parser<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(super) fn fault<T>(&self, at: usize, message: impl Into<String>) -> Parsed<T> {
        let end = self.at.max(at);
        Err(Fault { at, end, message: message.into() })
    }

    /// An error at the next word, which is shown.
    pub(super) fn want<T>(&self, what: &str) -> Parsed<T> {
        let rest = self.rest();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let end = match rest.chars().next() {
            Some(c) if end == 0 => c.len_utf8(),
            _ => end,
        };
        let found = match rest[..end].chars().next() {
            None => "the end of the text".to_owned(),
            Some('\n' | '\r') => "the end of the line".to_owned(),
            Some(_) => {
                let shown: String = rest[..end].chars().take(40).collect();
                format!("`{}`", shown.escape_debug())
            }
        };
        Err(Fault { at: self.at, end: self.at + end, message: format!("want {what}, found {found}") })
    }

    /// Blanks of this line.
    pub(super) fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
    }

    /// Blanks, ends of lines and comments.
    pub(super) fn space(&mut self) {
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            if !self.rest().starts_with("//") {
                return;
            }
            self.at += self.line().len();
        }
    }

    /// What is left of this line, without its end.
    pub(super) fn line(&self) -> &'a str {
        let line = self.rest().split('\n').next().unwrap_or("");
        line.strip_suffix('\r').unwrap_or(line)
    }

    pub(super) fn eat(&mut self, sign: &str) -> bool {
        self.blanks();
        let found = self.rest().starts_with(sign);
        if found {
            self.at += sign.len();
        }
        found
    }

    pub(super) fn sign(&mut self, sign: &str) -> Parsed<()> {
        if self.eat(sign) { Ok(()) } else { self.want(&format!("`{sign}`")) }
    }

    pub(super) fn peek_word(&mut self) -> &'a str {
        self.blanks();
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')));
        let word = &rest[..end.unwrap_or(rest.len())];
        if bare(word) || word == "none" { word } else { "" }
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = self.peek_word() == word;
        if found {
            self.at += word.len();
        }
        found
    }

    pub(super) fn word(&mut self, word: &str) -> Parsed<()> {
        if self.eat_word(word) { Ok(()) } else { self.want(&format!("`{word}`")) }
    }

    /// A word that `find` knows.
    pub(super) fn named<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> Parsed<T> {
        let word = self.peek_word();
        match find(word) {
            Some(found) => {
                self.at += word.len();
                Ok(found)
            }
            None => self.want(what),
        }
    }

    pub(super) fn wide(&mut self) -> Parsed<u128> {
        self.blanks();
        let rest = self.rest();
        let digits = &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())];
        if digits.is_empty() {
            return self.want("a number");
        }
        let begin = self.at;
        self.at += digits.len();
        digits.parse().or_else(|_| self.fault(begin, "the number is too large"))
    }

    pub(super) fn number(&mut self) -> Parsed<usize> {
        self.blanks();
        let begin = self.at;
        let number = self.wide()?;
        usize::try_from(number).or_else(|_| self.fault(begin, "the number is too large"))
    }

    /// A number that must be this one, because things are numbered in order.
    pub(super) fn ordinal(&mut self, number: usize, what: &str) -> Parsed<()> {
        self.blanks();
        let begin = self.at;
        let found = self.number()?;
        if found == number { Ok(()) } else { self.fault(begin, format!("want {what} {number} here")) }
    }

    pub(super) fn float(&mut self) -> Parsed<f64> {
        self.blanks();
        let rest = self.rest();
        let sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let end = rest.find(|c| !sign(c)).unwrap_or(rest.len());
        match rest[..end].parse::<f64>() {
            Ok(x) if x.is_finite() => {
                self.at += end;
                Ok(x)
            }
            _ => self.want("a finite number"),
        }
    }

    pub(super) fn quoted(&mut self) -> Parsed<String> {
        self.blanks();
        let begin = self.at;
        if !self.eat("\"") {
            return self.want("a name in quotes");
        }
        let line = self.line();
        let mut escaped = false;
        for (i, c) in line.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    let inside = self.at;
                    self.at += i + 1;
                    return self.unescape(&line[..i], inside);
                }
                _ => {}
            }
        }
        self.at += line.len();
        self.fault(begin, "the name has no closing quote")
    }

    pub(super) fn unescape(&self, text: &str, at: usize) -> Parsed<String> {
        let bad = |i: usize, what: &str| Err(Fault { at: at + i, end: at + i + 1, message: what.to_owned() });
        let mut out = String::with_capacity(text.len());
        let mut chars = text.char_indices();
        while let Some((i, c)) = chars.next() {
            if unsafe_to_show(c) && c != '\t' {
                return bad(i, "a control character must be escaped");
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some((_, '\\')) => out.push('\\'),
                Some((_, '"')) => out.push('"'),
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((j, 'u')) => {
                    let code = text[j + 1..].strip_prefix('{').and_then(|t| t.split_once('}'));
                    let Some((code, _)) = code.filter(|(c, _)| c.len() <= 6) else {
                        return bad(i, "want `\\u{…}`");
                    };
                    let Some(c) = u32::from_str_radix(code, 16).ok().and_then(char::from_u32) else {
                        return bad(i, "no such character");
                    };
                    out.push(c);
                    // Past the closing brace.
                    let next = j + 1 + code.len() + 2;
                    while chars.offset() < next && chars.next().is_some() {}
                }
                _ => return bad(i, "no such escape: want \\\\, \\\", \\n, \\t or \\u{…}"),
            }
        }
        Ok(out)
    }
}

/// The message, and of the line what is near the fault.
pub(super) fn render(text: &str, fault: &Fault) -> String {
    const NEAR: usize = 100;
    let at = fault.at.min(text.len());
    let line_start = text[..at].rfind('\n').map_or(0, |i| i + 1);
    let line_end = text[at..].find('\n').map_or(text.len(), |i| at + i);
    let number = text[..line_start].matches('\n').count() + 1;
    let mut from = line_start.max(at.saturating_sub(NEAR));
    while !text.is_char_boundary(from) {
        from -= 1;
    }
    let mut to = line_end.min(at.saturating_add(NEAR));
    while !text.is_char_boundary(to) {
        to += 1;
    }
    // The renderer must see nothing that moves its columns or the reader's cursor.
    let tame = |t: &str| -> String {
        t.chars()
            .map(|c| {
                if c == '\t' {
                    ' '
                } else if unsafe_to_show(c) {
                    '\u{fffd}'
                } else {
                    c
                }
            })
            .collect()
    };
    let mut end = fault.end.clamp(at, to);
    while !text.is_char_boundary(end) {
        end += 1;
    }
    let (before, marked, after) = (tame(&text[from..at]), tame(&text[at..end]), tame(&text[end..to]));
    let span = before.len()..before.len() + marked.len().max(usize::from(!after.is_empty()));
    let source = format!("{before}{marked}{after}");
    let snippet = Snippet::source(source).line_start(number).annotation(AnnotationKind::Primary.span(span));
    let message: String = fault.message.chars().take(400).collect();
    let title = Level::ERROR.primary_title(tame(&message));
    Renderer::plain().render(&[title.element(snippet)])
}
