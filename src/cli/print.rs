//! Everything that is printed goes through here: control characters of a model's names never reach a terminal, nor the
//! marks that turn the text behind them around.

use super::stop::Stop;
use std::io::Write;

/// Whether a character would change how the text around it is shown: control characters, and the marks that turn text
/// around. Line ends and tabs are wanted.
fn fools(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && c != '\n' && c != '\t')
}

/// The text with what fools escaped.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if fools(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The same in JSON's own escapes. None of these characters stands outside a string there.
fn clean_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if fools(c) { out += &format!("\\u{:04x}", u32::from(c)) } else { out.push(c) }
    }
    out
}

/// Prints to standard output. A reader that went away ends the command quietly.
pub(crate) fn text(text: &str) -> Result<(), Stop> {
    let mut text = clean(text);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Stop::Failed(format!("standard output: {e}")))
        }
        _ => Ok(()),
    }
}

/// Prints one JSON object.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Stop> {
    let json = serde_json::to_string_pretty(value).map_err(|e| Stop::Failed(e.to_string()))?;
    text(&clean_json(&json))
}

/// Prints a message to standard error; nothing if it is empty.
pub(crate) fn error(why: &str) {
    if !why.is_empty() {
        // Nobody is left to tell if standard error is closed.
        let _ = writeln!(std::io::stderr().lock(), "annulus: {}", clean(why));
    }
}

/// Bytes for people: `12.0 KiB`.
pub(crate) fn bytes(n: usize) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut x = n as f64 / 1024.0;
    let mut unit = 0;
    while x >= 1024.0 && unit + 1 < UNITS.len() {
        x /= 1024.0;
        unit += 1;
    }
    format!("{x:.1} {}", UNITS[unit])
}

/// One number, or the smallest and the largest: `6.0 KiB to 12.0 KiB`.
pub(crate) fn span(values: &[usize], show: impl Fn(usize) -> String) -> String {
    let least = values.iter().copied().min().unwrap_or(0);
    let most = values.iter().copied().max().unwrap_or(0);
    if least == most { show(least) } else { format!("{} to {}", show(least), show(most)) }
}
