//! The README says what the program prints: every block that it quotes is compared, and so is its picture.
//! After a change, `INSTA_UPDATE=always cargo test --test cli readme` writes them anew, as it does snapshots.

use annulus::dump::{support, timeline_svg};
use annulus::import::case;
use annulus::layout::LayoutKind;
use annulus::ring::Strategy;
use annulus::{Options, compile};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a file with what it should be, or writes it.
fn same(path: &Path, want: &str) {
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes the folder");
        std::fs::write(path, want).expect("writes");
    }
    let is = std::fs::read_to_string(path).unwrap_or_default();
    assert!(is == want, "{} is stale: INSTA_UPDATE=always cargo test --test cli readme", path.display());
}

/// The text between `<!-- name -->` and `<!-- end -->` is replaced.
fn fill(readme: &str, name: &str, body: &str) -> String {
    let begin = format!("<!-- {name} -->\n");
    let at = readme.find(&begin).unwrap_or_else(|| panic!("{begin} is not in the README")) + begin.len();
    let end = at + readme[at..].find("<!-- end -->").expect("an end");
    format!("{}{}{}", &readme[..at], body, &readme[end..])
}

fn annulus(args: &[&str]) -> String {
    let out =
        Command::new(env!("CARGO_BIN_EXE_annulus")).args(args).current_dir(root()).output().expect("runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

#[test]
fn the_readme_quotes_what_is_printed() {
    let path: PathBuf = root().join("README.md");
    let mut readme = std::fs::read_to_string(&path).expect("a README");

    // The error itself depends on the machine's order of sums: it is quoted as it was, and only its line is compared.
    let run = annulus(&["run", "tests/models/llama", "--ranks", "4"]);
    let quoted = readme.lines().find(|l| l.contains("max error")).unwrap_or_default().to_owned();
    let mut lines: Vec<&str> = run.lines().collect();
    let last = lines.pop().expect("a line an output");
    let figure = |l: &str| l.split_once("max error ").map(|(_, r)| r[..r.find(' ').unwrap_or(0)].to_owned());
    match (figure(&quoted), figure(last)) {
        (Some(old), Some(new)) if last.replace(&new, &old) == quoted => lines.push(&quoted),
        _ => lines.push(last),
    }
    readme = fill(&readme, "run", &format!("```text\n{}\n```\n", lines.join("\n")));

    let schedule = annulus(&[
        "compile",
        "tests/models/llama",
        "--ranks",
        "4",
        "--strategy",
        "ring",
        "--layout",
        "zigzag",
        "--emit",
        "schedule",
    ]);
    let begin = schedule.find("  rank 1 ").expect("rank 1");
    let rank = &schedule[begin..begin + schedule[begin..].find("\n\n").expect("an end")];
    readme = fill(&readme, "schedule", &format!("```text\n{rank}\n```\n"));
    readme = fill(&readme, "table", &support::table());
    same(&path, &readme);
}

#[test]
fn the_picture_is_the_schedule() {
    let folder = root().join("tests/models/llama");
    let case = case::load(&folder, &Default::default(), &Default::default()).expect("loads");
    let options = Options::new(4).strategy(Strategy::Ring).layout(LayoutKind::Zigzag);
    let compiled = compile(&case.graph, &options).expect("compiles");
    same(
        &root().join("snapshots/readme/timeline.svg"),
        &timeline_svg(&compiled.islands[0].schedule, &compiled.device),
    );
}
