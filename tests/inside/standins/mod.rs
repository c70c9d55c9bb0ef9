//! The stand-ins of CUDA's driver and compiler (`tests/standins`): what they catch, and annulus's own calls of CUDA on them.
//!
//! Whoever wants a program to run on them calls `builder::build::on_standins`.

#[path = "../../standins/mod.rs"]
pub(crate) mod builder;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod calls;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod embed;
#[cfg(target_os = "linux")]
mod faults;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod foreign;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod goldens;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod islands;
#[cfg(target_os = "linux")]
mod messages;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod planted;
#[cfg(all(feature = "cuda", feature = "onnx", target_os = "linux"))]
mod processes;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod trials;

/// The line of what a process said that begins with the word; it must have ended by itself, with success.
#[cfg(all(feature = "cuda", target_os = "linux"))]
fn told(done: &std::process::Output, word: &str) -> String {
    let [said, errors] = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(done.status.success() && !errors.contains("panicked"), "{}: {said}{errors}", done.status);
    let line = said.lines().find(|line| line.starts_with(word));
    line.unwrap_or_else(|| panic!("no line begins with `{word}`: {said}{errors}")).to_owned()
}
