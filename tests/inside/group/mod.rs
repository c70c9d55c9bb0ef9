//! exec/group: what launchers' environments say, ranks that meet, and what each says of what is wrong; ranks as threads and as
//! processes, with limits short enough that nothing here waits long.

mod environment;
mod frames;
mod meeting;
#[cfg(target_os = "linux")]
mod processes;
mod together;

use annulus::exec::group::{Group, MeetError, Meeting, Place, free_port};
use std::collections::BTreeSet;
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes, unless something hangs.
const LONG: Duration = Duration::from_secs(20);

/// A place that no other test of this process has.
fn place() -> Place {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = free_port().unwrap();
        if GIVEN.lock().unwrap().insert(port) {
            return Place::new("127.0.0.1", port);
        }
    }
}

/// A connection on which a test says what it likes, as soon as somebody listens there.
fn connect(place: &Place) -> TcpStream {
    let until = Instant::now() + LONG;
    loop {
        match TcpStream::connect((place.host.as_str(), place.port)) {
            // A socket may meet itself on a port where nobody listens.
            Ok(stream) if stream.local_addr().unwrap() != stream.peer_addr().unwrap() => return stream,
            Ok(_) => {}
            Err(e) => assert!(Instant::now() < until, "{e}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// A meeting of ranks that are all there.
fn meeting(rank: usize, size: usize, place: &Place) -> Meeting {
    let mut out = Meeting::new(rank, size, place.clone());
    out.patience = LONG;
    // A test beside many others may wait for a core.
    out.silence = Duration::from_secs(5);
    out
}

/// What ranks do, each in a thread of its own, by rank.
fn ranks<T: Send>(
    size: usize,
    set: impl Fn(&mut Meeting) + Sync,
    what: impl Fn(usize, Result<Group, MeetError>) -> T + Sync,
) -> Vec<T> {
    let place = place();
    thread::scope(|s| {
        let started: Vec<_> = (0..size)
            .map(|rank| {
                let (place, set, what) = (&place, &set, &what);
                s.spawn(move || {
                    let mut meeting = meeting(rank, size, place);
                    set(&mut meeting);
                    what(rank, meeting.meet())
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Ranks that meet without fault.
fn met<T: Send>(size: usize, what: impl Fn(Group) -> T + Sync) -> Vec<T> {
    ranks(size, |_| {}, |_, group| what(group.unwrap()))
}
