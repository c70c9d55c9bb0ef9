//! The error of the room.

/// Why a text, or what a program built, describes no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", visible(&format!("{}{}: {why}", place(.file, .line), after(.field))))]
#[non_exhaustive]
pub struct DeviceError {
    /// The file; of what a program built the name of the device.
    pub file: String,
    /// Its line, from 1, if there is a text.
    pub line: Option<usize>,
    /// The field, as `link.node.gb_s`; empty where the text is not even TOML.
    pub field: String,
    /// What is wrong.
    pub why: String,
}

fn place(file: &str, line: &Option<usize>) -> String {
    line.map_or_else(|| format!("device {file}"), |line| format!("{file}, line {line}"))
}

fn after(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(", {name}") }
}

/// What stands in a text may be anything: control characters are shown as what they are, and what is long is cut.
fn visible(text: &str) -> String {
    const MOST: usize = 1000;
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == MOST {
            out.push('…');
            break;
        }
        if c.is_control() && c != '\n' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
