//! Names of masks at every small size: of the readings that say the same pairs, the plainest.

use annulus::find::report::{AttentionRecord, Offset, record};
use annulus::find::{FindOptions, find};
use annulus::ir::parse;
use std::fmt::Write;

/// Keys that row i keeps: those j with low ≤ j − i ≤ high.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Band {
    low: Option<i64>,
    high: Option<i64>,
}

impl Band {
    fn keeps(self, i: i64, j: i64) -> bool {
        self.low.is_none_or(|l| j - i >= l) && self.high.is_none_or(|h| j - i <= h)
    }

    /// Of every pair whether it is kept.
    fn pairs(self, rows: i64, keys: i64) -> Vec<bool> {
        (0..rows).flat_map(|i| (0..keys).map(move |j| self.keeps(i, j))).collect()
    }
}

/// What is said of a mask.
type Figures = (bool, i64, Option<[i64; 2]>);

/// Attention that is masked by comparisons of keys with rows.
fn masked(band: Band, rows: i64, keys: i64) -> AttentionRecord {
    compared("sub %j, %i", band, rows, keys)
}

/// Attention whose kept pairs are those of which an expression of row `%i` and key `%j` lies within the bounds.
fn compared(what: &str, band: Band, rows: i64, keys: i64) -> AttentionRecord {
    let mut text = format!(
        "graph \"masked\" {{
  input %q: f32[1,1,{rows},2]
  input %k: f32[1,1,{keys},2]
  %i: i64[{rows},{keys}] = iota {{axis=0}}
  %j: i64[{rows},{keys}] = iota {{axis=1}}
  %d: i64[{rows},{keys}] = {what}
  const %inf: f32[] = -inf
  %s0: f32[1,1,{rows},{keys}] = contract %q, %k {{bhid,bhjd->bhij}}\n"
    );
    let mut scores = "s0";
    for (name, op, bound) in [("s1", "ge", band.low), ("s2", "le", band.high)] {
        let Some(bound) = bound else { continue };
        writeln!(text, "  const %{name}n: i64[] = {bound}").unwrap();
        writeln!(text, "  %{name}c: bool[{rows},{keys}] = {op} %d, %{name}n").unwrap();
        writeln!(text, "  %{name}: f32[1,1,{rows},{keys}] = select %{name}c, %{scores}, %inf").unwrap();
        scores = name;
    }
    write!(
        text,
        "  %p: f32[1,1,{rows},{keys}] = softmax %{scores} {{axis=3}}
  %o: f32[1,1,{rows},2] = contract %p, %k {{bhij,bhje->bhie}}
  output \"o\" = %o
}}"
    )
    .unwrap();
    let found = find(&parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")), &FindOptions::default());
    assert_eq!(found.attentions.len(), 1, "{:?}", found.missed);
    record(&found.graph, &found.attentions[0])
}

/// Readings from the plainest on: nothing, causal, causal with a window, as far ahead as behind, causal from beyond the keys. Each where
/// rows are the last of the keys, and where they are the first.
fn readings(rows: i64, keys: i64) -> Vec<(Band, Figures)> {
    let own = (keys - rows).max(0);
    let mut all = vec![(Band { low: None, high: None }, (false, 0, None))];
    let causal = |at| (Band { low: None, high: Some(at) }, (true, at, None));
    all.extend([own, 0].map(causal));
    all.extend((-rows..own).rev().map(causal));
    let window = |at: i64, left: i64, right: i64| {
        let band = Band { low: Some(at - left), high: Some(at + right) };
        (band, (right == 0, at, Some([left, right])))
    };
    all.extend([own, 0].iter().flat_map(|&at| (0..9).map(move |w| window(at, w, 0))));
    all.extend([own, 0].iter().flat_map(|&at| (1..9).map(move |w| window(at, w, w))));
    all.extend((own + 1..9).map(causal));
    all
}

#[test]
fn the_plainest_reading_at_every_small_size() {
    let mut windows = 0;
    for (rows, keys) in (2..=6).flat_map(|rows| (1..=6).map(move |keys| (rows, keys))) {
        let readings = readings(rows, keys);
        let mut done: Vec<Vec<bool>> = vec![];
        for &(band, said) in &readings {
            let pairs = band.pairs(rows, keys);
            // The first reading of these pairs is the plainest. Where a row keeps nothing, more readings fit.
            if done.contains(&pairs) {
                continue;
            }
            let r = masked(band, rows, keys);
            let Offset::All(offset) = r.query_offset else { panic!("one batch entry") };
            let live = pairs.chunks(keys as usize).all(|row| row.contains(&true));
            if live {
                assert_eq!((r.causal, offset, r.window), said, "{rows}×{keys} {band:?}: {}", r.mask);
                windows += usize::from(said.2.is_some_and(|w| w[0] == w[1]));
            }
            let beyond = |n: usize| {
                let (i, j) = (n as i64 / keys, n as i64 % keys);
                pairs[n] && j > i + offset
            };
            let beyond = (0..pairs.len()).any(beyond);
            assert!(!r.causal || !beyond, "{rows}×{keys} {band:?}: {}", r.mask);
            done.push(pairs);
        }
    }
    assert!(windows > 30, "{windows}");
}

#[test]
fn two_keys_behind_and_two_ahead_are_a_window_wherever_they_show() {
    for (rows, keys) in (2..=6).flat_map(|rows| (1..=8).map(move |keys| (rows, keys))) {
        let band = Band { low: Some(-2), high: Some(2) };
        let pairs = band.pairs(rows, keys);
        let own = (keys - rows).max(0);
        let is = |low, high| Band { low, high }.pairs(rows, keys) == pairs;
        // Smaller than that, it is no mask at all, or the rows may as well be the last of the keys, or end before them.
        let causal = own == 2 || is(None, None) || (0..=own).any(|h| is(None, Some(h)));
        let r = masked(band, rows, keys);
        let live = pairs.chunks(keys as usize).all(|row| row.contains(&true));
        assert_eq!(r.causal, causal && !is(None, None), "{rows}×{keys}: {}", r.mask);
        if !causal && live {
            assert_eq!(
                (r.window, r.query_offset),
                (Some([2, 2]), Offset::All(0)),
                "{rows}×{keys}: {}",
                r.mask
            );
        }
    }
}

#[test]
fn a_bound_that_no_row_moves_is_one_of_keys() {
    for (rows, keys) in (1..=4).flat_map(|rows| (1..=5).map(move |keys| (rows, keys))) {
        for (first, end) in (0..keys).flat_map(|first| (first + 1..=keys).map(move |end| (first, end))) {
            let r = compared("abs %j", Band { low: Some(first), high: Some(end - 1) }, rows, keys);
            let all = (first, end) == (0, keys);
            let want = if all { "none".to_owned() } else { format!("keys({first},{end})") };
            assert_eq!(r.mask, want, "{rows}×{keys}");
            assert_eq!((r.causal, r.query_offset, r.window), (false, Offset::All(0), None), "{rows}×{keys}");
        }
    }
}
