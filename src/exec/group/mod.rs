//! group: ranks of a job, one a process, find each other, agree before the first message, and learn of each other's death.
//!
//! In: what a launcher set in the environment ([`launched`], [`Meeting`]). Out: a [`Group`], over which rank 0 hands bytes to all, every rank to every
//! other, and all compare what they are about to do. It carries no tensors: it is the way by which an id of NCCL comes to all ranks, and the
//! one on which they hear that one of them is gone.
//!
//! - [`Meeting::meet`]: rank 0 listens, the others look for it until it is there. Both prove that they hold the token of the job (HMAC-SHA256 over
//!   fresh numbers of both), without which they meet on the loopback interface alone. Nothing is encrypted, and what follows the proof is not
//!   signed: the network is one on which nobody forges the packets of others. Whoever is wrong is told what, and holds up nobody else.
//! - [`Group::agree`]: a difference is one error, the same on every rank, that names the fact, the ranks and their values.
//! - [`Group::poll`]: whether all ranks are well. A rank that is killed, stopped, gives up or leaves early is known to all others, by name, within the
//!   limit of [`Meeting::silence`] and a little.
//!
//! Every wait has a limit, every length one that is compared before anything is kept. Ranks of a size of one need nothing of this and get a group
//! all the same.
//!
//! ```
//! use annulus::exec::group::{Facts, Meeting, Place};
//! use std::time::Duration;
//!
//! let limit = Duration::from_secs(10);
//! let place = Place::new("127.0.0.1", annulus::exec::group::free_port()?);
//! // Ranks are processes; here they are threads.
//! let ranks = [0, 1, 2].map(|rank| {
//!     let meeting = Meeting::new(rank, 3, place.clone());
//!     std::thread::spawn(move || {
//!         let mut group = meeting.meet().expect("all come");
//!         let agreed = group.agree(&Facts::new().with("hash of schedules", "5d3f"), limit).expect("all come");
//!         agreed.expect("all say the same");
//!         let id = group.share(b"an id that rank 0 made", limit).expect("all come");
//!         group.poll().expect("all are well");
//!         group.leave(limit).expect("all leave");
//!         id
//!     })
//! });
//! for rank in ranks {
//!     assert_eq!(rank.join().expect("a thread"), b"an id that rank 0 made");
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

mod address;
mod channel;
mod environment;
mod error;
mod exchange;
mod facts;
mod fault;
pub(crate) mod frame;
pub(crate) mod greeting;
#[expect(clippy::module_inception, reason = "the type that the room is about")]
mod group;
mod guest;
mod host;
mod listen;
mod meeting;
mod random;
mod shared;
mod token;
mod wire;
mod words;

pub use environment::names;
pub use environment::{
    EnvironmentError, Launched, Launcher, Place, Variables, job, launched, place, variables,
};
pub use error::{MeetError, Seconds};
pub use facts::{Difference, Disagreement, Facts};
pub use fault::{Abort, Death, Fault};
pub use group::Group;
pub use meeting::Meeting;
#[cfg(test)]
pub(crate) use token::Key;
pub use token::{TOKEN, TOKEN_FILE, Token};

/// A port of the loopback interface on which nobody listens just now.
///
/// # Errors
/// The system has none.
pub fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
