//! Names and strings in quotes, as texts and messages show them.

/// Whether a byte may stand in a name without quotes.
pub(super) fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"_./:-$".contains(&b)
}

/// A name with its `%`: plain, or quoted.
pub(super) fn quoted_name(name: &str) -> String {
    let mut out = String::from("%");
    push_name(&mut out, name);
    out
}

/// A name as it stands behind `%`: plain, or quoted.
pub(super) fn push_name(out: &mut String, name: &str) {
    // A colon ends a list of results, so that a name cannot end in one.
    if !name.is_empty() && name.bytes().all(is_plain) && !name.ends_with(':') {
        out.push_str(name);
    } else {
        push_string(out, name);
    }
}

/// A string in quotes; what is not printable is escaped, bidirectional controls included.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '\'' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out.push('"');
}
