//! Licence expressions as crates state them: SPDX with `OR`, `AND`, `WITH` and brackets, and the old `/` for `OR`.

/// An expression.
#[derive(Debug, PartialEq)]
pub(crate) enum Licence {
    /// A licence, with its exception if there is one.
    One(String),
    /// Any of them may be chosen.
    Any(Vec<Licence>),
    /// All of them must be kept.
    All(Vec<Licence>),
}

impl Licence {
    /// Whether it is enough to accept these licences.
    pub(crate) fn holds(&self, allowed: &[&str]) -> bool {
        match self {
            Licence::One(name) => allowed.contains(&name.as_str()),
            Licence::Any(parts) => parts.iter().any(|p| p.holds(allowed)),
            Licence::All(parts) => parts.iter().all(|p| p.holds(allowed)),
        }
    }
}

/// Reads an expression; what is none is a panic that shows it.
pub(crate) fn parse(text: &str) -> Licence {
    let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let licence = any(&mut words, text);
    assert!(words.next().is_none(), "not a licence expression: {text}");
    licence
}

type Words<'a, 'b> = &'a mut std::iter::Peekable<std::str::SplitWhitespace<'b>>;

fn any(words: Words<'_, '_>, text: &str) -> Licence {
    let mut parts = vec![all(words, text)];
    while words.next_if_eq(&"OR").is_some() {
        parts.push(all(words, text));
    }
    if parts.len() > 1 { Licence::Any(parts) } else { parts.remove(0) }
}

fn all(words: Words<'_, '_>, text: &str) -> Licence {
    let mut parts = vec![one(words, text)];
    while words.next_if_eq(&"AND").is_some() {
        parts.push(one(words, text));
    }
    if parts.len() > 1 { Licence::All(parts) } else { parts.remove(0) }
}

fn one(words: Words<'_, '_>, text: &str) -> Licence {
    let operator = |word: &str| matches!(word, "OR" | "AND" | "WITH" | ")" | "(");
    match words.next() {
        Some("(") => {
            let inner = any(words, text);
            assert_eq!(words.next(), Some(")"), "not a licence expression: {text}");
            inner
        }
        Some(name) if !operator(name) => {
            let with = words.next_if_eq(&"WITH").map(|_| words.next().unwrap_or_default());
            Licence::One(with.map_or(name.to_owned(), |exception| format!("{name} WITH {exception}")))
        }
        _ => panic!("not a licence expression: {text}"),
    }
}

#[test]
fn expressions_are_understood() {
    for (text, allowed, holds) in [
        ("MIT", &["MIT"][..], true),
        ("MIT", &["ISC"], false),
        ("MIT/Apache-2.0", &["Apache-2.0"], true),
        ("GPL-3.0 OR MIT", &["MIT"], true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", &["MIT"], false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", &["MIT", "Unicode-3.0"], true),
        // AND binds closer.
        ("MIT OR GPL-3.0 AND ISC", &["MIT"], true),
        ("MIT AND GPL-3.0 OR ISC", &["MIT"], false),
        ("Apache-2.0 WITH LLVM-exception", &["Apache-2.0"], false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", &["MIT"], true),
    ] {
        assert_eq!(parse(text).holds(allowed), holds, "{text} with {allowed:?}");
    }
    for text in ["", "MIT OR", "MIT Apache-2.0", "(MIT", "AND MIT", "MIT)"] {
        assert!(std::panic::catch_unwind(|| parse(text)).is_err(), "{text:?} is no expression");
    }
}
