//! The last resort: a command that panics ends as one that stops, with one message that names the place.
//!
//! What an input can bring about is an error long before it comes to this; who sees the message has found a fault of annulus.

use super::stop::Stop;
use std::any::Any;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs a command. Where it panics, on whatever thread, nothing is printed but the message of the [`Stop`] that comes back.
pub(super) fn caught(command: impl FnOnce() -> Result<(), Stop>) -> Result<(), Stop> {
    // The first panic is the fault; others follow from it.
    let first: Arc<Mutex<Option<String>>> = Arc::default();
    let noted = Arc::clone(&first);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        noted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| shown(info));
    }));
    // What the command leaves behind in pieces nobody sees again.
    let outcome = panic::catch_unwind(AssertUnwindSafe(command));
    panic::set_hook(before);
    outcome.unwrap_or_else(|payload| {
        let noted = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(Stop::Fault(message(&noted.unwrap_or_else(|| said(&*payload)))))
    })
}

/// What a panic says and where, on one line.
fn shown(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
    format!("{}{place}", said(info.payload()))
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn message(what: &str) -> String {
    format!(
        "internal fault: {what}; the input is at fault or annulus is: please report it with the command and its input"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitCode;

    #[test]
    fn a_panic_is_one_message_with_its_place_and_an_exit_status_of_its_own() {
        let planted = caught(|| panic!("planted:\n  {}", 7)).unwrap_err();
        let Stop::Fault(why) = &planted else { panic!("it is a fault") };
        assert!(why.starts_with("internal fault: planted: 7 at src/cli/fault.rs:"), "{why}");
        assert!(why.ends_with("please report it with the command and its input") && !why.contains('\n'));
        assert_eq!(super::super::status(Err(planted)), ExitCode::from(3));
        // On another thread, as of a pool: the first that panics is named.
        let elsewhere = caught(|| {
            std::thread::scope(|s| s.spawn(|| panic!("on a thread")).join())
                .unwrap_or_else(|p| panic::resume_unwind(p))
        });
        let Err(Stop::Fault(why)) = elsewhere else { panic!("it is a fault") };
        assert!(why.contains("on a thread at src/cli/fault.rs:"), "{why}");
        let odd = caught(|| panic::panic_any(7u8));
        assert!(matches!(odd, Err(Stop::Fault(why)) if why.contains("a panic without words")));
    }

    #[test]
    fn what_does_not_panic_comes_back_as_it_is() {
        assert!(caught(|| Ok(())).is_ok());
        let usage = caught(|| Err(Stop::Usage("so".into())));
        assert!(matches!(usage, Err(Stop::Usage(why)) if why == "so"));
    }
}
