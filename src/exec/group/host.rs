//! Rank 0's side of the meeting: it listens, and greets whoever comes.
//!
//! One thread does it all, over connections that never block, so that whoever says nothing, or junk, holds nobody up: each has a limit of
//! its own, and of those under way the oldest is dropped when there are too many.

use super::address::to_listen;
use super::error::{MeetError, Seconds, note};
use super::fault::Fault;
use super::frame::{Decoder, Kind, NoFrame, VERSION, frame};
use super::greeting::{Claim, GREETING, Nonce, Refusal};
use super::meeting::Meeting;
use super::random::fresh;
use super::token::Key;
use super::wire::{is_not_yet, write};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// So many connections are greeted at a time.
const UNDER_WAY: usize = 512;
/// So long the thread sleeps where nothing moves.
const NAP: Duration = Duration::from_millis(1);
/// So long it tries to listen: a port may be in use for a moment, by whoever looked for rank 0 there or by the rank 0 of an earlier try.
const TAKEN: Duration = Duration::from_millis(300);

/// A connection that has not proved itself.
struct Guest {
    stream: TcpStream,
    from: SocketAddr,
    decoder: Decoder,
    /// Its number and ours, once it has said hello.
    numbers: Option<(Nonce, Nonce)>,
    until: Instant,
}

/// What became of a guest.
enum Outcome {
    Waits,
    Met(usize),
    Gone(Option<String>),
}

/// The connections to ranks 1, 2, …, once all are here; each was told so.
pub(super) fn gather(meeting: &Meeting) -> Result<Vec<TcpStream>, MeetError> {
    let (start, until) = (Instant::now(), Instant::now() + meeting.patience);
    let listeners = listen(meeting, until)?;
    let key = meeting.key();
    let mut here: Vec<Option<TcpStream>> = (1..meeting.size).map(|_| None).collect();
    let mut guests: Vec<Guest> = vec![];
    let mut notes = vec![];
    let mut looked = start;
    loop {
        let now = Instant::now();
        let all = here.iter().all(Option::is_some);
        if all || now - looked > Duration::from_millis(20) {
            looked = now;
            // Whoever came and is gone again may come anew.
            here.iter_mut().filter(|rank| rank.as_ref().is_some_and(is_gone)).for_each(|rank| *rank = None);
        }
        if all && here.iter().all(Option::is_some) {
            break;
        }
        if now >= until {
            return Err(give_up(meeting, here, now - start, notes));
        }
        let mut moved = accept(&listeners, &mut guests, now + meeting.greeting);
        let mut at = 0;
        while at < guests.len() {
            match step(&mut guests[at], meeting, &key, &mut here, now) {
                Outcome::Waits => {
                    at += 1;
                    continue;
                }
                Outcome::Met(rank) => here[rank - 1] = Some(guests.swap_remove(at).stream),
                Outcome::Gone(why) => {
                    let from = guests.swap_remove(at).from.ip();
                    why.iter().for_each(|why| note(&mut notes, &format!("from {from}: {why}")));
                }
            }
            moved = true;
        }
        if !moved {
            thread::sleep(NAP);
        }
    }
    let streams: Vec<TcpStream> = here.into_iter().flatten().collect();
    for stream in &streams {
        // One that died just now is found out by whoever reads.
        let _ = stream.set_nonblocking(false);
        let _ = write(stream, &frame(Kind::Start, &[]), Instant::now() + meeting.greeting);
    }
    Ok(streams)
}

/// Tells those that came who is missing.
fn give_up(
    meeting: &Meeting,
    here: Vec<Option<TcpStream>>,
    waited: Duration,
    notes: Vec<String>,
) -> MeetError {
    let absent = here.iter().enumerate().filter(|(_, stream)| stream.is_none());
    let missing: Vec<usize> = absent.map(|(i, _)| i + 1).collect();
    let fault = Fault::Missing { ranks: missing.clone(), during: "the meeting".into() };
    for stream in here.iter().flatten() {
        let _ = stream.set_nonblocking(false);
        let _ = write(stream, &frame(Kind::Over, &fault.encode()), Instant::now() + NAP * 50);
    }
    MeetError::Missing { place: meeting.place.clone(), missing, seconds: Seconds(waited), notes }
}

fn listen(meeting: &Meeting, until: Instant) -> Result<Vec<TcpListener>, MeetError> {
    let addresses = to_listen(meeting, until)?;
    let end = until.min(Instant::now() + TAKEN);
    loop {
        let mut why = String::new();
        for port in meeting.place.port..=meeting.place.last {
            match bind(&addresses, port) {
                Ok(all) => return Ok(all),
                Err(e) => why = e.to_string(),
            }
        }
        if Instant::now() >= end {
            return Err(MeetError::Listen { place: meeting.place.clone(), why });
        }
        thread::sleep(NAP * 10);
    }
}

/// Listens on a port of all these addresses that this host has, or of all interfaces where none is named.
fn bind(addresses: &[IpAddr], port: u16) -> io::Result<Vec<TcpListener>> {
    let mut out = vec![];
    if addresses.is_empty() {
        // Where IPv6 is on, that of IPv6 takes IPv4 too.
        let v6 = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
        out.push(v6.or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?);
    }
    let mut absent = None;
    for address in addresses {
        match TcpListener::bind((*address, port)) {
            Ok(listener) => out.push(listener),
            // A name may stand for an address of IPv6 where that is off.
            Err(e) if matches!(e.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported) => {
                absent = Some(e);
            }
            Err(e) => return Err(e),
        }
    }
    out.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
    match absent {
        Some(e) if out.is_empty() => Err(e),
        _ => Ok(out),
    }
}

/// Takes in whoever waits at the door.
fn accept(listeners: &[TcpListener], guests: &mut Vec<Guest>, until: Instant) -> bool {
    let mut moved = false;
    for listener in listeners {
        // As many at a time as there is room for, so that a crowd does not keep the thread here.
        for _ in 0..UNDER_WAY {
            let Ok((stream, from)) = listener.accept() else { break };
            moved = true;
            if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
                continue;
            }
            if guests.len() >= UNDER_WAY {
                let oldest = guests.iter().enumerate().min_by_key(|(_, g)| g.until).map(|(i, _)| i);
                oldest.into_iter().for_each(|i| drop(guests.swap_remove(i)));
            }
            guests.push(Guest { stream, from, decoder: Decoder::default(), numbers: None, until });
        }
    }
    moved
}

/// Whether the other side has ended a connection on which nothing is expected.
fn is_gone(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(e) => !is_not_yet(&e),
    }
}

/// Says something short to a guest; what does not fit into an empty buffer at once is not waited for.
fn say(stream: &mut TcpStream, kind: Kind, body: &[u8]) -> bool {
    let bytes = frame(kind, body);
    matches!(stream.write(&bytes), Ok(n) if n == bytes.len())
}

fn step(
    guest: &mut Guest,
    meeting: &Meeting,
    key: &Key,
    here: &mut [Option<TcpStream>],
    now: Instant,
) -> Outcome {
    let mut piece = [0; 256];
    loop {
        match guest.decoder.next(|_| GREETING) {
            Ok(Some(said)) => match heard(guest, said.kind, &said.body, meeting, key, here) {
                Outcome::Waits => continue,
                other => return other,
            },
            Ok(None) => {}
            Err(NoFrame::Version(theirs)) => {
                say(&mut guest.stream, Kind::Refused, &Refusal::Version(VERSION).body(None));
                return Outcome::Gone(Some(format!("version {theirs} of the protocol")));
            }
            Err(NoFrame::Junk | NoFrame::Long) => return Outcome::Gone(Some("no message of annulus".into())),
        }
        match guest.stream.read(&mut piece) {
            Ok(0) => return Outcome::Gone(None),
            Ok(n) => guest.decoder.feed(&piece[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if is_not_yet(&e) && now < guest.until => return Outcome::Waits,
            Err(e) if is_not_yet(&e) => return Outcome::Gone(Some("a connection that says nothing".into())),
            Err(_) => return Outcome::Gone(None),
        }
    }
}

fn heard(
    guest: &mut Guest,
    kind: Kind,
    body: &[u8],
    meeting: &Meeting,
    key: &Key,
    here: &mut [Option<TcpStream>],
) -> Outcome {
    match (kind, guest.numbers) {
        (Kind::Hello, None) => {
            let (Ok(hello), Ok(challenge)) = (Nonce::try_from(body), fresh()) else {
                return Outcome::Gone(Some("no message of annulus".into()));
            };
            guest.numbers = Some((hello, challenge));
            if say(&mut guest.stream, Kind::Challenge, &challenge) {
                Outcome::Waits
            } else {
                Outcome::Gone(None)
            }
        }
        (Kind::Answer, Some((hello, challenge))) => {
            let Some((claim, proved)) = Claim::of_answer(body, hello, challenge, key) else {
                return Outcome::Gone(Some("no message of annulus".into()));
            };
            let refuse = |stream: &mut TcpStream, why: Refusal, to, said: String| {
                say(stream, Kind::Refused, &why.body(to));
                Outcome::Gone(Some(said))
            };
            if !proved {
                return refuse(&mut guest.stream, Refusal::Token, None, "a wrong token".into());
            }
            let to = Some((&claim, key));
            let rank = claim.rank;
            if claim.size != meeting.size {
                let said = format!("a rank {rank} of {}", claim.size);
                return refuse(&mut guest.stream, Refusal::Size(meeting.size), to, said);
            }
            let seat = rank.checked_sub(1).and_then(|i| here.get(i));
            if !seat.is_some_and(|seat| seat.as_ref().is_none_or(is_gone)) {
                let said = format!("one more rank {rank}");
                return refuse(&mut guest.stream, Refusal::Taken, to, said);
            }
            if say(&mut guest.stream, Kind::Welcome, &claim.welcome(key)) {
                Outcome::Met(rank)
            } else {
                Outcome::Gone(None)
            }
        }
        _ => Outcome::Gone(Some("no message of annulus".into())),
    }
}
