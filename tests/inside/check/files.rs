//! Schedules in files: each says in its first lines, up to an empty one, what the proof must say: `// proved`, or each check that
//! must fail, `// <check>: <words>`, and no other may.

use crate::inside::support::cases::files;
use annulus::check::check;
use annulus::schedule::parse;

#[test]
fn every_file_is_judged_as_it_says() {
    let all = files("inside/check");
    assert!(all.len() >= 6, "{} files", all.len());
    for path in all {
        let text = std::fs::read_to_string(&path).unwrap();
        let wants: Vec<&str> = text
            .lines()
            .map_while(|l| l.strip_prefix("//").map(str::trim).filter(|l| !l.is_empty()))
            .collect();
        let schedules = parse(&text).unwrap_or_else(|e| panic!("{}\n{e}", path.display()));
        let report = check(&schedules[0]);
        if wants == ["proved"] {
            assert_eq!(report.failed, [], "{}", path.display());
            continue;
        }
        let wants: Vec<(&str, &str)> = wants.iter().map(|w| w.split_once(": ").unwrap()).collect();
        for (check, words) in &wants {
            let told = report.failed.iter().any(|f| f.check == *check && f.message.contains(words));
            assert!(told, "{}: {check}: {:#?}", path.display(), report.failed);
        }
        let others: Vec<_> = report.failed.iter().filter(|f| wants.iter().all(|w| w.0 != f.check)).collect();
        assert!(others.is_empty(), "{}: {others:#?}", path.display());
    }
}
