//! Records as text, damaged in any way, and what is made of them.

use super::Subject;
use super::simulated::{Fault, Kind, play};
use crate::inside::support::cases::snapshot;
use annulus::exec::flight::{Damage, Record, judge, parse, read_folder};
use annulus::ring::Strategy;
use proptest::prelude::*;

/// Those of a run whose rank 1 is killed in the middle, and nobody tells.
fn left() -> Vec<Record> {
    let subject = Subject::new(Strategy::Ring, 4, 1);
    let fault = Fault { kind: Kind::Silent, rank: 1, op: 3 };
    let played = play(&subject.programs, &subject.arguments, Some(fault), 1).unwrap();
    played.ranks.into_iter().filter_map(|r| r.record).collect()
}

#[test]
fn a_killed_rank_is_found_by_what_the_others_left() {
    let records = left();
    assert!(records.len() >= 2);
    snapshot("flight", "a_rank_is_killed", &judge(&records).to_string());
    let record = records[0].to_string();
    let lines: Vec<&str> = record.lines().filter(|line| !line.starts_with("op ")).collect();
    snapshot("flight", "a_record", &lines.join("\n"));
}

#[test]
fn a_record_reads_back() {
    for record in left() {
        assert_eq!(parse(&record.to_string()).unwrap(), record);
    }
}

/// Whoever has more groups than a record lists is not said to be missing at those that it leaves out.
#[test]
fn what_a_record_leaves_out_is_not_held_against_its_rank() {
    let mut records = left();
    let waits = judge(&records).diverged.unwrap();
    let (waiting, group) = (waits.1[0], waits.0);
    let mut other = records.iter().find(|r| r.rank != waiting).unwrap().clone();
    (other.rank, other.groups, other.left_out) = (waits.2[0], vec![], 7);
    records.retain(|r| r.rank != other.rank);
    records.push(Record { left_out: 0, ..other.clone() });
    assert_eq!(judge(&records).diverged.map(|d| (d.0, d.2)), Some((group, waits.2.clone())));
    *records.last_mut().unwrap() = other;
    let judged = judge(&records);
    assert!(judged.diverged.is_none_or(|d| !d.2.contains(&waits.2[0])));
    assert!(judged.differences.is_empty());
}

/// As large as a file may be, and as crooked as it likes: it is judged at once.
#[test]
fn a_record_of_many_groups_and_ranks_is_judged_at_once() {
    let peers = (0..4000).map(|peer| (peer, 1)).collect::<Vec<_>>();
    let group = |number| annulus::exec::flight::Group {
        number,
        step: 0,
        state: annulus::exec::flight::State::Waits,
        sends: peers.clone(),
        recvs: peers.clone(),
    };
    let one =
        |rank| Record { rank, ranks: 1 << 40, groups: (0..12).map(group).collect(), ..left()[0].clone() };
    let records: Vec<Record> = (0..8).map(one).collect();
    assert!(parse(&records[0].to_string()).is_ok_and(|r| r == records[0]));
    let begin = std::time::Instant::now();
    let judged = judge(&records);
    assert!(judged.to_string().len() < 100_000 && judged.differences.len() <= 64);
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}

/// Cut off at any byte it is no record, and is told to be damaged.
#[test]
fn what_is_cut_off_is_told() {
    let text = left()[0].to_string();
    for end in 0..text.len() {
        assert!(parse(&text[..end]).is_err(), "{end}");
    }
    assert_eq!(parse("annulus flight 2\n"), Err(Damage::NoRecord));
    assert_eq!(parse(&format!("{text}more\n")), Err(Damage::Line(text.lines().count() + 1)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed: it is a record or is told to be none, and judging it ends.
    #[test]
    fn what_is_changed_is_read_all_the_same(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        number in any::<u64>(),
    ) {
        let records = left();
        let mut bytes = records[0].to_string().into_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let text = String::from_utf8_lossy(&bytes).replace("3", &number.to_string());
        if let Ok(record) = parse(&text) {
            let judged = judge(&[&[record], &records[1..]].concat());
            prop_assert!(judged.to_string().len() < 100_000);
        }
    }
}

#[test]
fn a_folder_of_anything_is_read() {
    let folder = std::env::temp_dir().join(format!("annulus-records-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("rank-9.flight")).unwrap();
    let records = left();
    for record in &records {
        std::fs::write(folder.join(format!("rank-{}.flight", record.rank)), record.to_string()).unwrap();
    }
    std::fs::write(folder.join("rank-7.flight"), [0xff, 0, 0x80]).unwrap();
    std::fs::write(folder.join("rank-8.flight"), vec![b'a'; (1 << 20) + 1]).unwrap();
    std::fs::write(folder.join("notes.txt"), "no record").unwrap();
    let kept = read_folder(&folder).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(kept.records, records);
    let damaged: Vec<&str> = kept.damaged.iter().map(|d| d.0.as_str()).collect();
    assert_eq!(damaged, ["rank-7.flight", "rank-8.flight", "rank-9.flight"]);
}
