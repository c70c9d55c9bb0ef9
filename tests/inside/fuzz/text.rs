//! The text of a graph, the text of a schedule with its proof, and the description of a device.

use super::driver::{Rng, Target, fuzz, kind};
use crate::inside::support::alone::alone;
use annulus::check::{MOST_FAILURES, check};
use annulus::device::Device;
use annulus::dump::report::report;
use annulus::ir::{Form, parse, print, verify};
use annulus::schedule;
use annulus::{Options, compile};
use std::fs;
use std::path::Path;

/// Numbers at which something changes.
pub(crate) const EXTREMES: [&str; 18] = [
    "0",
    "1",
    "2",
    "3",
    "7",
    "63",
    "64",
    "65",
    "-1",
    "-2",
    "2147483648",
    "1099511627776",
    "1099511627777",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "1e308",
    "nan",
];

/// Lines, tokens and numbers of a text are cut, doubled, exchanged and replaced.
pub(crate) fn mutate(rng: &mut Rng, input: &[u8], corpus: &[Vec<u8>]) -> Vec<u8> {
    let text = String::from_utf8_lossy(input).into_owned();
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let other = String::from_utf8_lossy(rng.pick::<Vec<u8>>(corpus)).into_owned();
    let lines_of_other: Vec<&str> = other.split_inclusive('\n').collect();
    if lines.is_empty() || lines_of_other.is_empty() {
        return other.into_bytes();
    }
    let (a, b) = (rng.below(lines.len()), rng.below(lines.len()));
    match rng.below(12) {
        0 => drop(lines.remove(a)),
        1 => lines.insert(a, lines[b]),
        2 => lines.swap(a, b),
        3 => lines.insert(a, *rng.pick(&lines_of_other)),
        4 => {
            // The head of one and the tail of another.
            lines.truncate(a);
            lines.extend(&lines_of_other[rng.below(lines_of_other.len())..]);
        }
        5 => {
            let again = 1 + rng.below(200);
            let line = lines[a];
            lines.splice(a..a, std::iter::repeat_n(line, again));
        }
        6 => return bytes(rng, input),
        7 | 8 => return token(rng, &text, &other),
        _ => return number(rng, &text),
    }
    // Lines that are doubled over and over would slow the search down; a line cut in the middle is as good as any.
    let mut out = lines.concat().into_bytes();
    out.truncate(64 << 10);
    out
}

/// A few bytes are changed, dropped or added.
pub(crate) fn bytes(rng: &mut Rng, input: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    let at = rng.below(out.len());
    match rng.below(4) {
        0 if !out.is_empty() => out[at] ^= 1 << rng.below(8),
        1 if !out.is_empty() => drop(out.remove(at)),
        2 => out.insert(at, *rng.pick(b"0179%\"{}[]()=,:. \n\\\0\x1b\x7f\xff-")),
        _ => out.truncate(at),
    }
    out
}

/// The ranges of the tokens: words, numbers, and single signs.
fn tokens(text: &str) -> Vec<std::ops::Range<usize>> {
    let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
    let mut out: Vec<std::ops::Range<usize>> = vec![];
    let mut open = false;
    for (i, c) in text.char_indices() {
        match (word(c), open) {
            (true, true) => out.last_mut().expect("it is open").end = i + c.len_utf8(),
            _ if c.is_whitespace() => {}
            _ => out.push(i..i + c.len_utf8()),
        }
        open = word(c);
    }
    out
}

/// A token is replaced by another of this text or of the other, dropped or doubled.
fn token(rng: &mut Rng, text: &str, other: &str) -> Vec<u8> {
    let all = tokens(text);
    if all.is_empty() {
        return text.into();
    }
    let at = rng.pick(&all).clone();
    let from = if rng.below(2) == 0 { text } else { other };
    let new = match (rng.below(6), tokens(from)) {
        (0, _) => String::new(),
        (1, _) => text[at.clone()].repeat(2 + rng.below(60)),
        (_, others) if others.is_empty() => String::new(),
        (_, others) => from[rng.pick(&others).clone()].to_owned(),
    };
    let mut out = text.to_owned();
    out.replace_range(at, &new);
    out.into_bytes()
}

/// A number becomes an extreme one, its neighbour, or another of the text. Half the time all places with that number change.
fn number(rng: &mut Rng, text: &str) -> Vec<u8> {
    let digits =
        |r: &std::ops::Range<usize>| text[r.clone()].starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let all: Vec<_> = tokens(text).into_iter().filter(digits).collect();
    if all.is_empty() {
        return text.into();
    }
    let at = rng.pick(&all).clone();
    let old = &text[at.clone()];
    let new = match (rng.below(4), old.parse::<i128>()) {
        (0, Ok(n)) => (n + [-1, 1][rng.below(2)]).to_string(),
        (1, _) => text[rng.pick(&all).clone()].to_owned(),
        _ => (*rng.pick(&EXTREMES)).to_owned(),
    };
    let everywhere = rng.below(2) == 0;
    let mut out = String::new();
    let mut done = 0;
    for r in all.iter().filter(|r| **r == at || (everywhere && text[(*r).clone()] == *old)) {
        out.push_str(&text[done..r.start]);
        out.push_str(&new);
        done = r.end;
    }
    out.push_str(&text[done..]);
    out.into_bytes()
}

/// The texts of a folder under `tests/inside`, and of the folders in it.
pub(crate) fn texts(folder: &str) -> Vec<Vec<u8>> {
    let mut out = vec![];
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inside").join(folder)];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "txt") {
                out.push(fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
            }
        }
    }
    assert!(!out.is_empty(), "no text in {folder}");
    out.retain(|text| text.len() < 16 << 10);
    out
}

/// What is told has its length and no control characters.
fn decent(message: &str) {
    assert!(message.len() < 1 << 14, "{} bytes of message", message.len());
    assert!(message.chars().all(|c| c == '\n' || !c.is_control()), "{message:?}");
}

/// A text that is no graph is refused in decent words; one that is verifies, prints and parses back.
fn graph(input: &[u8]) -> String {
    match parse(&String::from_utf8_lossy(input)) {
        Err(e) => {
            decent(&e.rendered);
            kind(&e.rendered)
        }
        Ok(g) => {
            assert_eq!(verify(&g), Ok(()));
            for form in [Form::Full, Form::People] {
                let printed = print(&g, form);
                let again = parse(&printed).unwrap_or_else(|e| panic!("what it prints does not parse: {e}"));
                assert!(again == g, "it prints as another graph");
                assert!(print(&again, form) == printed, "it prints otherwise when it is read again");
            }
            format!("a graph of {} operations", g.len().min(50))
        }
    }
}

/// As [`graph`], and the proof of each schedule ends.
fn proof(input: &[u8]) -> String {
    match schedule::parse(&String::from_utf8_lossy(input)) {
        Err(e) => {
            decent(&e.rendered);
            kind(&e.rendered)
        }
        Ok(all) => {
            let printed: Vec<String> = all.iter().map(ToString::to_string).collect();
            let again = schedule::parse(&printed.join("\n"));
            let again = again.unwrap_or_else(|e| panic!("what it prints does not parse: {e}"));
            assert!(again == all, "it prints as another schedule");
            let mut outcome = String::from("schedule");
            for s in &all {
                let report = check(s);
                assert!(report.failed.len() <= MOST_FAILURES);
                match report.failed.first() {
                    None => outcome += &format!(" proved by {}", report.passed.len()),
                    Some(f) => {
                        decent(&f.message);
                        outcome += &format!(" {} {}", f.check, kind(&f.message));
                    }
                }
            }
            outcome
        }
    }
}

/// A description that is no device is refused in decent words; for one that is, an attention is compiled.
fn device(input: &[u8]) -> String {
    static GRAPH: &str = include_str!("../../cases/window.txt");
    let device = match Device::parse(&String::from_utf8_lossy(input), "fuzzed") {
        Err(e) => {
            decent(&e.to_string());
            return kind(&e.to_string());
        }
        Ok(device) => device,
    };
    let graph = parse(GRAPH).expect("a case");
    match compile(&graph, &Options::new(3).device(device)) {
        Err(e) => {
            assert!(!e.to_string().contains("internal fault"), "{e}");
            kind(&e.to_string())
        }
        Ok(compiled) => {
            let (island, told) = (&compiled.islands[0], report(&compiled));
            let time = island.estimate.makespan_us;
            assert!(time >= 0.0 && told.ok, "{time}");
            serde_json::to_string(&told).expect("it is JSON");
            format!("{} {}", island.strategy.name(), told.schedule.limiter)
        }
    }
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    #[test]
    fn fuzz_device_text() {
        if !alone!(fuzz_device_text) {
            return;
        }
        let seeds = Device::bundled().map(|name| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/device/{name}.toml"));
            fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        });
        fuzz(&Target {
            name: "fuzz_device_text",
            seeds: seeds.collect(),
            inputs: 3_000,
            mutate,
            run: device,
        });
    }

    #[test]
    fn fuzz_graph_text() {
        if !alone!(fuzz_graph_text) {
            return;
        }
        let mut seeds = texts("ir");
        seeds.extend(texts("find"));
        seeds.extend(texts("../cases"));
        fuzz(&Target { name: "fuzz_graph_text", seeds, inputs: 90_000, mutate, run: graph });
    }

    #[test]
    fn fuzz_schedule_text() {
        if !alone!(fuzz_schedule_text) {
            return;
        }
        fuzz(&Target {
            name: "fuzz_schedule_text",
            seeds: texts("check"),
            inputs: 90_000,
            mutate,
            run: proof,
        });
    }
}
