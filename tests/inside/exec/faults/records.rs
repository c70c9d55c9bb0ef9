//! Records as text, damaged in any way, and what is made of them.

use super::Subject;
use super::simulated::{Fault, Kind, play};
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
    insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "../../../../snapshots/flight" }, {
        insta::assert_snapshot!("a_rank_is_killed", judge(&records));
        insta::assert_snapshot!("a_record", records[0].to_string().lines().filter(|l| !l.starts_with("op ")).collect::<Vec<_>>().join("\n"));
    });
}

#[test]
fn a_record_reads_back() {
    for record in left() {
        assert_eq!(parse(&record.to_string()).unwrap(), record);
    }
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
