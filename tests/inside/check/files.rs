//! Schedules in files: each says in its first line what the proof must say, `// proved` or `// <check>: <words>`.

use crate::inside::support::cases::files;
use annulus::check::check;
use annulus::schedule::parse;

#[test]
fn every_file_is_judged_as_it_says() {
    let all = files("inside/check");
    assert!(all.len() >= 6, "{} files", all.len());
    for path in all {
        let text = std::fs::read_to_string(&path).unwrap();
        let want = text.lines().next().unwrap().trim_start_matches("// ");
        let schedules = parse(&text).unwrap_or_else(|e| panic!("{}\n{e}", path.display()));
        let report = check(&schedules[0]);
        match want.split_once(": ") {
            None => assert_eq!((want, &report.failed[..]), ("proved", &[][..]), "{}", path.display()),
            Some((check, words)) => {
                let told = report.failed.iter().any(|f| f.check == check && f.message.contains(words));
                assert!(told, "{}: {:#?}", path.display(), report.failed);
                let others: Vec<_> = report.failed.iter().filter(|f| f.check != check).collect();
                assert!(others.is_empty(), "{}: {others:#?}", path.display());
            }
        }
    }
}
