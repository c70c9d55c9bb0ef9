//! Masks over as many rows as long contexts have: never a value of rows × keys, however the positions are spelled.

use annulus::find::report::{AttentionRecord, Offset, record};
use annulus::find::{FindOptions, find};
use annulus::ir::{Graph, parse};
use std::time::{Duration, Instant};

const ROWS: usize = 131_072;

/// Seconds, although nothing is optimised here; a value of rows × keys would take minutes.
const MOST: Duration = Duration::from_secs(50);

/// The one attention of a graph that `lines` begin and an attention over two heads ends. They define %m, and %s1 from %s if
/// they do more than add it; S stands for the number of rows.
fn found(lines: &str, after: &str) -> (AttentionRecord, Graph) {
    let text = format!(
        "graph \"long\" {{
  input %q: f32[1,2,S,4]
  input %k: f32[1,2,S,4]
  const %one: i64[] = 1
{lines}
  %s: f32[1,2,S,S] = contract %q, %k {{bhid,bhjd->bhij}}
{after}
  %p: f32[1,2,S,S] = softmax %s1 {{axis=3}}
  %o: f32[1,2,S,4] = contract %p, %k {{bhij,bhje->bhie}}
  output \"o\" = %o
}}"
    );
    let text = text.replace("S,", &format!("{ROWS},")).replace("S]", &format!("{ROWS}]"));
    let graph = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let start = Instant::now();
    let found = find(&graph, &FindOptions::default());
    assert!(start.elapsed() < MOST, "{:?}", start.elapsed());
    assert_eq!(found.attentions.len(), 1, "{:?}", found.missed);
    (record(&found.graph, &found.attentions[0]), found.graph)
}

const ADD: &str = "  %s1: f32[1,2,S,S] = add %s, %m";
const WHERE: &str = "  const %inf: f32[] = -inf
  %s1: f32[1,2,S,S] = select %m, %s, %inf";
const POSITIONS: &str = "  %j: i64[S] = iota {axis=0}
  %i: i64[S,1] = iota {axis=0}";

#[test]
fn causal_by_comparison_and_by_a_triangle_of_fills() {
    let (r, _) = found(&format!("{POSITIONS}\n  %m: bool[S,S] = le %j, %i"), WHERE);
    assert_eq!((r.mask.as_str(), r.bias), ("causal(0)", None));
    let lines = "  const %f: f32[] = -3.4028235e38
  const %z: f32[] = 0.0
  %all: f32[S,S] = broadcast %f
  %row: i64[S,S] = iota {axis=0}
  %column: i64[S,S] = iota {axis=1}
  %upper: bool[S,S] = gt %column, %row
  %t: f32[S,S] = select %upper, %all, %z
  %m: f32[1,1,S,S] = reshape %t";
    let (r, _) = found(lines, ADD);
    assert_eq!((r.mask.as_str(), r.bias), ("causal(0)", None));
}

#[test]
fn a_window_and_causal_from_distances() {
    let lines = "  %d: i64[S,S] = sub %i, %j
  const %z: i64[] = 0
  const %w: i64[] = 4096
  %near: bool[S,S] = lt %d, %w
  %past: bool[S,S] = ge %d, %z
  %m: bool[S,S] = and %near, %past";
    let (r, _) = found(&format!("{POSITIONS}\n{lines}"), WHERE);
    assert_eq!((r.window, r.causal, r.query_offset), (Some([4095, 0]), true, Offset::All(0)));
}

#[test]
fn keys_first_and_causal_with_padding_of_an_input() {
    let lines = "  input %pad: bool[1,1,1,S]
  %t: bool[S,S] = ge %i, %j
  %flip: bool[S,S] = permute %t {perm=[1,0]}
  %back: bool[S,S] = permute %flip {perm=[1,0]}
  %m: bool[1,1,S,S] = and %back, %pad";
    let (r, _) = found(&format!("{POSITIONS}\n{lines}"), WHERE);
    assert!(r.causal && r.mask.starts_with("causal(0) & tensor("), "{}", r.mask);
}

#[test]
fn documents_of_one_length_and_causal() {
    let lines = "  const %n: i64[] = 16384
  %a: i64[S,1] = div %i, %n
  %b: i64[S] = div %j, %n
  %same: bool[S,S] = eq %a, %b
  %past: bool[S,S] = le %j, %i
  %m: bool[S,S] = and %same, %past";
    let (r, _) = found(&format!("{POSITIONS}\n{lines}"), WHERE);
    assert_eq!(r.mask, "causal(0) & segments(16384,32768,49152,65536,81920,98304,114688)");
}

#[test]
fn alibi_from_positions() {
    let lines = "  const %slope: f32[1,2,1,1] = [0.25, 0.0625]
  %d: i64[S,S] = sub %j, %i
  %f: f32[S,S] = cast %d
  %b: f32[1,2,S,S] = mul %f, %slope
  const %fill: f32[] = -3.4028235e38
  const %z: f32[] = 0.0
  %past: bool[S,S] = le %j, %i
  %c: f32[S,S] = select %past, %z, %fill
  %m: f32[1,2,S,S] = add %b, %c";
    let (r, _) = found(&format!("{POSITIONS}\n{lines}"), ADD);
    assert_eq!((r.mask.as_str(), r.bias), ("causal(0)", Some("alibi")));
}

/// T5's: a table by buckets of the distance, exact when near and logarithmic when far.
#[test]
fn relative_bias_from_positions() {
    let lines = "  const %table: f32[8,2] = [0.5, 0.1, -0.3, 0.2, 0.25, -1.0, 0.4, 0.0, -0.6, 0.3, 1.0, -0.2, 0.7, 0.9, -0.8, 0.6]
  %d: i64[S,S] = sub %i, %j
  const %z: i64[] = 0
  %n: i64[S,S] = max %d, %z
  const %exact: i64[] = 4
  %small: bool[S,S] = lt %n, %exact
  const %e: f32[] = 4.0
  const %least: f32[] = 1.0
  %nf: f32[S,S] = cast %n
  %n1: f32[S,S] = max %nf, %least
  %r: f32[S,S] = div %n1, %e
  %l: f32[S,S] = log %r
  %far: i64[S,S] = cast %l
  %up: i64[S,S] = add %far, %exact
  const %last: i64[] = 7
  %big: i64[S,S] = min %up, %last
  %bucket: i64[S,S] = select %small, %n, %big
  %g: f32[S,S,2] = gather %table, %bucket {axis=0}
  %h: f32[2,S,S] = permute %g {perm=[2,0,1]}
  %m: f32[1,2,S,S] = reshape %h";
    let (r, _) = found(&format!("{POSITIONS}\n{lines}"), ADD);
    assert_eq!((r.mask.as_str(), r.bias), ("none", Some("relative")));
}

/// 32 heads and 2^20 rows, of which the scores are 2^45, more than any data may have: what is written out is compiled as the
/// operator is, to the same schedule, and a graph of one rank holds no more operations for the rows.
mod long {
    use annulus::ir::{Graph, Op, parse};
    use annulus::{Compiled, Options, compile};

    const ROWS: usize = 1 << 20;

    fn graph(lines: &str) -> Graph {
        let text = lines.replace("S,", &format!("{ROWS},")).replace("S]", &format!("{ROWS}]"));
        parse(&format!(
            "graph \"long\" {{\n  input %q: f32[1,32,{ROWS},128]\n{text}\n  output \"o\" = %o\n}}"
        ))
        .unwrap()
    }

    fn operator(mask: &str) -> Compiled {
        let line = format!(
            "  %o: f32[1,32,S,128] = attention %q, %q, %q {{scores=[factor 0.125 | fill -inf unless {mask}], acc=f32, empty=nan}}"
        );
        compile(&graph(&line), &Options::new(8)).unwrap()
    }

    fn written_out(mask: &str, fill: &str) -> Compiled {
        let text = format!(
            "  const %scale: f32[] = 0.125
  const %fill: f32[] = {fill}
  const %none: i64[] = 0
  const %w: i64[] = 4096
  %i: i64[S,1] = iota {{axis=0}}
  %j: i64[S] = iota {{axis=0}}
{mask}
  %s: f32[1,32,S,S] = contract %q, %q {{bhid,bhjd->bhij}}
  %t: f32[1,32,S,S] = mul %s, %scale
  %x: f32[1,32,S,S] = select %m, %t, %fill
  %p: f32[1,32,S,S] = softmax %x {{axis=3}}
  %o: f32[1,32,S,128] = contract %p, %q {{bhij,bhjd->bhid}}"
        );
        compile(&graph(&text), &Options::new(8)).unwrap()
    }

    /// The schedule but for its first line, which has the name, and the operations of rank 3.
    fn work(compiled: &Compiled) -> (String, usize) {
        assert_eq!(compiled.islands.len(), 1, "{:?}", compiled.missed);
        let schedule = compiled.islands[0].schedule.to_string();
        let rank = compiled.rank_graph(3).unwrap();
        let islands = rank.ops().into_iter().filter(|&id| matches!(rank.op(id), Op::Region(..))).count();
        (schedule.split_once('\n').unwrap().1.to_owned(), islands)
    }

    #[test]
    fn a_million_rows_written_out_are_compiled_as_one_operator() {
        let window = "  %d: i64[S,S] = sub %i, %j\n  %near: bool[S,S] = lt %d, %w\n  %past: bool[S,S] = ge %d, %none\n  \
            %m: bool[S,S] = and %near, %past";
        for (mask, lines, fill) in [
            ("causal(0)", "  %m: bool[S,S] = le %j, %i", "-3.4028235e38"),
            ("window(4095,0,0)", window, "-inf"),
        ] {
            let (one, many) = (operator(mask), written_out(lines, fill));
            assert_eq!(work(&one), work(&many), "{mask}");
        }
    }
}
