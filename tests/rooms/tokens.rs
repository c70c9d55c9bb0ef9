//! Rust source as tokens. In: the text of a file. Out: its tokens without comments and whitespace, and without whatever is
//! compiled for tests alone. A literal is one token that holds no name, so that no path is read in a comment or a string.

/// A token and the line on which it stands.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its line, from 1 on.
    pub(crate) line: usize,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// An identifier or a keyword; raw identifiers without their `r#`.
    Name(String),
    /// `::`.
    Path,
    /// Any other single character of punctuation.
    Mark(char),
    /// A literal or a lifetime.
    Literal,
}

impl Token {
    /// Whether it is this name.
    pub(crate) fn is(&self, name: &str) -> bool {
        matches!(&self.kind, Kind::Name(n) if n == name)
    }

    /// Whether it is this punctuation.
    pub(crate) fn mark(&self, c: char) -> bool {
        self.kind == Kind::Mark(c)
    }

    /// Its text, if it is a name.
    pub(crate) fn name(&self) -> Option<&str> {
        match &self.kind {
            Kind::Name(n) => Some(n),
            _ => None,
        }
    }
}

/// The tokens of a file, without what is compiled for tests alone.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    without_tests(&all(text))
}

/// Every token of a text.
fn all(text: &str) -> Vec<Token> {
    let text: Vec<char> = text.chars().collect();
    let at = |i: usize| text.get(i).copied().unwrap_or('\0');
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    while i < text.len() {
        let from = i;
        let c = at(i);
        let kind = if c.is_whitespace() {
            i += 1;
            None
        } else if c == '/' && at(i + 1) == '/' {
            while i < text.len() && at(i) != '\n' {
                i += 1;
            }
            None
        } else if c == '/' && at(i + 1) == '*' {
            i = comment_end(&text, i);
            None
        } else if let Some(end) = text_literal_end(&text, i) {
            i = end;
            Some(Kind::Literal)
        } else if c == 'r' && at(i + 1) == '#' && is_start(at(i + 2)) {
            i = name_end(&text, i + 2);
            Some(Kind::Name(text[from + 2..i].iter().collect()))
        } else if is_start(c) {
            i = name_end(&text, i);
            Some(Kind::Name(text[from..i].iter().collect()))
        } else if c.is_ascii_digit() {
            // A number; its exponent's sign and its fraction are left behind as punctuation and a number.
            i = name_end(&text, i);
            Some(Kind::Literal)
        } else if c == '\'' {
            i = quote_end(&text, i);
            Some(Kind::Literal)
        } else if c == ':' && at(i + 1) == ':' {
            i += 2;
            Some(Kind::Path)
        } else {
            i += 1;
            Some(Kind::Mark(c))
        };
        out.extend(kind.map(|kind| Token { kind, line }));
        line += text[from..i.min(text.len())].iter().filter(|&&c| c == '\n').count();
    }
    out
}

fn is_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn name_end(text: &[char], mut i: usize) -> usize {
    while text.get(i).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
        i += 1;
    }
    i
}

/// The end of a block comment, which may hold others.
fn comment_end(text: &[char], mut i: usize) -> usize {
    let mut depth = 0;
    while i < text.len() {
        match (text[i], text.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

/// The end of the string literal that begins here, if one does: plain, of bytes, of C, or raw.
fn text_literal_end(text: &[char], from: usize) -> Option<usize> {
    let mut i = from;
    while i < from + 2 && text.get(i).is_some_and(|c| "bcr".contains(*c)) {
        i += 1;
    }
    if text[from..i].contains(&'r') {
        let hashes = text[i..].iter().take_while(|&&c| c == '#').count();
        i += hashes;
        if text.get(i) != Some(&'"') {
            return None;
        }
        i += 1;
        while i < text.len() {
            let closing = text[i..].iter().skip(1).take_while(|&&c| c == '#').count();
            if text[i] == '"' && closing >= hashes {
                return Some(i + 1 + hashes);
            }
            i += 1;
        }
        return Some(i);
    }
    if text.get(i) != Some(&'"') {
        return None;
    }
    i += 1;
    while text.get(i).is_some_and(|&c| c != '"') {
        i += if text[i] == '\\' { 2 } else { 1 };
    }
    Some((i + 1).min(text.len()))
}

/// The end of a character literal or of a lifetime.
fn quote_end(text: &[char], i: usize) -> usize {
    match (text.get(i + 1), text.get(i + 2)) {
        // The escaped character itself may be a quote.
        (Some('\\'), _) => {
            let mut j = i + 3;
            while text.get(j).is_some_and(|&c| c != '\'') {
                j += 1;
            }
            (j + 1).min(text.len())
        }
        (Some(_), Some('\'')) => i + 3,
        _ => name_end(text, i + 1),
    }
}

/// The place behind the bracket that closes the one at `i`.
pub(crate) fn closed(tokens: &[Token], mut i: usize) -> usize {
    let mut depth = 0usize;
    while i < tokens.len() {
        match tokens[i].kind {
            Kind::Mark('(' | '[' | '{') => depth += 1,
            Kind::Mark(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        i += 1;
        if depth == 0 {
            break;
        }
    }
    i
}

/// The tokens without what an attribute keeps for tests.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut out = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let attribute = |i: usize| tokens[i].mark('#') && tokens.get(i + 1).is_some_and(|t| t.mark('['));
        let whole = tokens[i].mark('#')
            && tokens.get(i + 1).is_some_and(|t| t.mark('!'))
            && tokens.get(i + 2).is_some_and(|t| t.mark('['));
        if whole && for_tests(&tokens[i + 3..closed(tokens, i + 2) - 1]) {
            // The rest of what the attribute stands in: of the file.
            return out;
        }
        if !attribute(i) {
            out.push(tokens[i].clone());
            i += 1;
            continue;
        }
        let (from, mut only_tests) = (i, false);
        while i < tokens.len() && attribute(i) {
            let end = closed(tokens, i + 1);
            only_tests |= for_tests(&tokens[i + 2..end - 1]);
            i = end;
        }
        if only_tests {
            i = item_end(tokens, i);
        } else {
            out.extend_from_slice(&tokens[from..i]);
        }
    }
    out
}

/// Whether what has this attribute is compiled for tests alone.
fn for_tests(attribute: &[Token]) -> bool {
    match attribute {
        [name] => name.is("test"),
        [name, bracket, .., _] if name.is("cfg") && bracket.mark('(') => {
            needs_test(&attribute[2..attribute.len() - 1])
        }
        _ => false,
    }
}

/// Whether a condition of `cfg` holds in tests alone.
fn needs_test(condition: &[Token]) -> bool {
    match condition {
        [name] => name.is("test") || name.is("doctest"),
        [name, bracket, inner @ .., _] if bracket.mark('(') => {
            let mut parts = vec![];
            let (mut i, mut from) = (0, 0);
            while i < inner.len() {
                if inner[i].mark(',') {
                    parts.push(&inner[from..i]);
                    from = i + 1;
                }
                i = if inner[i].mark('(') { closed(inner, i) } else { i + 1 };
            }
            parts.push(&inner[from..]);
            let mut parts = parts.into_iter().filter(|p| !p.is_empty()).map(needs_test);
            match name.name() {
                Some("all") => parts.any(|p| p),
                Some("any") => parts.all(|p| p),
                _ => false,
            }
        }
        _ => false,
    }
}

/// The place behind the item, statement, field or arm that begins at `i`.
fn item_end(tokens: &[Token], mut i: usize) -> usize {
    let next = |i: usize| tokens.get(i + 1);
    if tokens.get(i).is_some_and(|t| t.is("pub")) {
        i = if next(i).is_some_and(|t| t.mark('(')) { closed(tokens, i + 1) } else { i + 1 };
    }
    let first = tokens.get(i).and_then(Token::name).unwrap_or("");
    let function =
        next(i).and_then(Token::name).is_some_and(|n| matches!(n, "fn" | "unsafe" | "extern" | "async"));
    // An item of the first sort ends with a semicolon, one of the second with its block or a semicolon; all else may end with a comma.
    let value = matches!(first, "use" | "let" | "static" | "type") || first == "const" && !function;
    let item = [
        "fn",
        "struct",
        "enum",
        "union",
        "impl",
        "trait",
        "mod",
        "unsafe",
        "async",
        "extern",
        "const",
        "macro_rules",
    ];
    let item = item.contains(&first);
    while i < tokens.len() {
        match tokens[i].kind {
            Kind::Mark(';') => return i + 1,
            Kind::Mark(',') if !value && !item => return i + 1,
            Kind::Mark(')' | ']' | '}') => return i,
            Kind::Mark('{') if !value => {
                let end = closed(tokens, i);
                let comma = !item && tokens.get(end).is_some_and(|t| t.mark(','));
                return end + usize::from(comma);
            }
            Kind::Mark('(' | '[' | '{') => i = closed(tokens, i),
            _ => i += 1,
        }
    }
    i
}
