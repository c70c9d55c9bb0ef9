//! Trials: a process on the stand-ins plays the same again and again, each time in a forked copy of itself, under another seed and
//! with another fault planted in its calls (`tests/standins/driver/trials.cpp`). What was loaded before is there in each.
#![allow(unsafe_code)]

use libloading::{Library, Symbol};
use std::ffi::{CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

type Begin = unsafe extern "C" fn(u64, *const c_char, *mut c_char, u64) -> c_int;
type Leave = unsafe extern "C" fn(c_int);

/// How a trial ended.
pub(super) struct Ended {
    /// Its status, or 1000 and the signal that ended it.
    pub(super) status: i32,
    /// What it wrote, and behind that how often it called what.
    pub(super) said: String,
}

/// The stand-in of the driver, which plays trials.
pub(super) struct Trials(Library);

impl Trials {
    /// In a process where the loader finds it.
    pub(super) fn open() -> Trials {
        // SAFETY: the library of the tests, which is loaded already: nothing of it runs now.
        Trials(unsafe { Library::new("libcuda.so.1") }.unwrap())
    }

    /// Plays it under a seed, with a fault: what `play` returns is written.
    pub(super) fn run(&self, seed: u64, fault: &str, play: &dyn Fn() -> String) -> Ended {
        let (fault, mut said) = (CString::new(fault).unwrap(), vec![0u8; 1 << 14]);
        // SAFETY: the functions have these types (trials.cpp). The copy has this thread alone: it uses what this thread has made, and
        // leaves without returning to anybody.
        let status = unsafe {
            let begin: Symbol<'_, Begin> = self.0.get("annulus_standins_trial").unwrap();
            begin(seed, fault.as_ptr(), said.as_mut_ptr().cast(), said.len() as u64)
        };
        if status == -1 {
            let played = catch_unwind(AssertUnwindSafe(play));
            let (text, status) = played.map_or(("panicked".into(), 101), |text| (text, 0));
            eprintln!("{text}");
            // SAFETY: as above.
            unsafe {
                let leave: Symbol<'_, Leave> = self.0.get("annulus_standins_leave").unwrap();
                leave(status);
            }
        }
        assert!(status >= 0, "no trial can be begun");
        said.truncate(said.iter().position(|&b| b == 0).unwrap_or(said.len()));
        Ended { status, said: String::from_utf8_lossy(&said).into_owned() }
    }
}
