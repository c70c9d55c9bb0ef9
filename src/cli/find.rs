//! `annulus find`.

use super::args::Find;
use super::stop::Stop;
use super::{model, print};
use annulus::dump::report::{self, OpaqueReport};
use annulus::find::{Applied, Found, report::AttentionRecord, report::record};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

#[derive(Serialize)]
struct CaseReport {
    attention: Vec<AttentionRecord>,
    missed: Vec<Missed>,
    /// Operators that annulus carries without computing them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    opaque: Vec<OpaqueReport>,
    /// Inputs that are bound: what was found holds for their stored values alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bound: Vec<String>,
}

#[derive(Serialize)]
struct Missed {
    at: String,
    reason: String,
}

pub(crate) fn run(args: &Find) -> Result<(), Stop> {
    let case = model::load(&args.model, None)?;
    let start = Instant::now();
    let found = annulus::find_attentions(&case.graph, &model::admitted(&args.admit, &case)?)?;
    model::note(args.model.verbose, "searched", start);
    let bound: Vec<String> = found.guards.iter().map(|b| b.input.clone()).collect();
    let opaque = report::opaque(&found.graph);
    let records: Vec<AttentionRecord> = found.attentions.iter().map(|a| record(&found.graph, a)).collect();
    if args.model.json {
        let missed = found.missed.iter().map(|m| Missed { at: m.at.clone(), reason: m.reason.clone() });
        return print::json(&CaseReport { attention: records, missed: missed.collect(), opaque, bound });
    }
    let mut text = describe(&found, &records, args.explain);
    for o in &opaque {
        text += &format!("  {}\n", o.line());
    }
    if !bound.is_empty() {
        text += &format!("  for the stored value of {} alone\n", bound.join(", "));
    }
    print::text(&text)
}

fn describe(found: &Found, records: &[AttentionRecord], explain: bool) -> String {
    let count = |n: usize, one: &str, many: &str| match n {
        0 => format!("no {many}"),
        1 => format!("1 {one}"),
        n => format!("{n} {many}"),
    };
    let mut out = format!(
        "{}, {}\n",
        count(records.len(), "attention", "attentions"),
        count(found.missed.len(), "near miss", "near misses")
    );
    let width = records.iter().map(|r| r.name.chars().count()).max().unwrap_or(0);
    // The first explanation by each list of rules.
    let mut shown: BTreeMap<Vec<&str>, (&str, &[Applied])> = BTreeMap::new();
    for (r, a) in records.iter().zip(&found.attentions) {
        let heads = if r.q_heads == r.kv_heads {
            format!("{}×{}", r.q_heads, r.head_dim)
        } else {
            format!("{}×{} over {} kv heads", r.q_heads, r.head_dim, r.kv_heads)
        };
        let values = if r.v_head_dim == r.head_dim { String::new() } else { format!("  v {}", r.v_head_dim) };
        let softcap = if r.softcap == 0.0 { String::new() } else { format!("  softcap {}", r.softcap) };
        let sinks = if r.sinks { "  sinks" } else { "" };
        let bias = r.bias.as_ref().map_or(String::new(), |b| format!("  bias {b}"));
        let scale = r.scale.map_or("of an operand".to_owned(), |x| x.to_string());
        out += &format!(
            "  {:width$}  {}  {heads}{values}  {}×{}  scale {scale}  {}{softcap}{bias}{sinks}  {}  ring: {}\n",
            r.name, r.kind, r.q_len, r.kv_len, r.mask, r.form, r.ring
        );
        if !r.usual {
            out += &format!("      scores {}\n", r.scores.join(" | "));
        }
        if explain {
            let same = shown.get(&rules(&a.applied)).copied();
            // Layers of a model mostly differ in the names of their nodes alone: only the lines that differ are repeated.
            let new: Vec<&Applied> = match same {
                Some((_, before)) => {
                    a.applied.iter().zip(before).filter(|(a, b)| a.what != b.what).map(|(a, _)| a).collect()
                }
                None => a.applied.iter().collect(),
            };
            if let Some((name, _)) = same {
                out += &format!("      as above: {name}{}\n", if new.is_empty() { "" } else { ", but" });
            }
            for step in new {
                out += &format!("      {}  {}  ({})\n", step.rule, step.what, step.numerics.name());
            }
            shown.entry(rules(&a.applied)).or_insert((&r.name, &a.applied));
        }
    }
    for m in &found.missed {
        out += &format!("  missed at {}: {}\n", m.at, m.reason);
    }
    out
}

/// Which rules were applied, in order, and how exact each is.
fn rules(applied: &[Applied]) -> Vec<&str> {
    applied.iter().flat_map(|a| [a.rule, a.numerics.name()]).collect()
}
