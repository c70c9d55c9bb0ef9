//! A place in a text and what is wrong there, rendered with its line and a caret.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::ops::Range;

/// Longest part of a message, and of a line, that is shown.
const SHOWN: usize = 240;

/// What is wrong with a text, and where.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// Bytes of the text.
    pub(super) at: Range<usize>,
    /// What is wrong, or what was expected.
    pub(super) title: String,
    /// What stands there.
    pub(super) label: String,
}

impl Fault {
    /// A fault at bytes of the text.
    pub(super) fn new(at: Range<usize>, title: impl Into<String>, label: impl Into<String>) -> Fault {
        Fault { at, title: title.into(), label: label.into() }
    }

    /// The message with its line and a caret. Only a part of a very long line is shown.
    pub(super) fn render(&self, text: &str) -> String {
        let start = text.floor_char_boundary(self.at.start.min(text.len()));
        let mut from = text[..start].rfind('\n').map_or(0, |i| i + 1);
        let number = 1 + text[..from].bytes().filter(|&b| b == b'\n').count();
        let mut to = text[start..].find('\n').map_or(text.len(), |i| start + i);
        if to - from > SHOWN {
            from = text.ceil_char_boundary(from.max(start.saturating_sub(SHOWN / 2)));
            to = text.floor_char_boundary(to.min(start + SHOWN / 2));
        }
        let end = text.ceil_char_boundary(self.at.end.clamp(start, to)).min(to);
        let label = (!self.label.is_empty()).then(|| shorten(&self.label));
        let snippet = Snippet::source(visible(&text[from..to]))
            .line_start(number)
            .annotation(AnnotationKind::Primary.span(start - from..end - from).label(label));
        let report = [Level::ERROR.primary_title(shorten(&self.title)).element(snippet)];
        Renderer::plain().render(&report)
    }
}

/// The line with what no terminal should see replaced by as many bytes that it may. (Of ASCII the renderer takes care.)
fn visible(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        match c.len_utf8() {
            1 => out.push(c),
            _ if c.escape_debug().len() == 1 => out.push(c),
            2 => out.push('·'),
            3 => out.push('\u{fffd}'),
            _ => out.push_str("··"),
        }
    }
    out
}

/// The text cut to what is shown, control characters escaped.
fn shorten(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() > SHOWN {
            out.push('…');
            break;
        }
        match c {
            '"' | '\'' | '\\' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}
