//! The bytes of an arena that are still to be read, over time.

use super::simulate::Timeline;
use crate::schedule::flow::Flow;
use crate::schedule::types::Schedule;

/// The bytes of its arena that hold something still to be read, of a rank over time: (time, bytes from then on), in order.
pub fn live_bytes(schedule: &Schedule, timeline: &Timeline, rank: usize) -> Vec<(f64, usize)> {
    let spans = &timeline.spans[rank];
    let mut changes: Vec<(f64, i64)> = Vec::new();
    for life in Flow::of(&schedule.ranks[rank]).lives {
        // What nobody reads is there while it is written.
        let ends: Option<Vec<f64>> =
            life.readers.iter().chain([&life.writer]).map(|&r| spans[r].map(|s| s.end)).collect();
        let replaced = life.replaced.map_or(Some(f64::INFINITY), |r| spans[r].map(|s| s.begin));
        if let (Some(from), Some(ends), Some(replaced)) = (spans[life.writer], ends, replaced) {
            let to = ends.into_iter().fold(0.0, f64::max).min(replaced).max(from.begin);
            changes.extend([(from.begin, life.at.len() as i64), (to, -(life.at.len() as i64))]);
        }
    }
    // Of changes at one time the ends first.
    changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut live = 0i64;
    let mut out: Vec<(f64, usize)> = Vec::new();
    for (time, change) in changes {
        live += change;
        match out.last_mut() {
            Some(last) if last.0 == time => last.1 = live.max(0) as usize,
            _ => out.push((time, live.max(0) as usize)),
        }
    }
    out
}
