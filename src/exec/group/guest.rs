//! The other ranks' side of the meeting: they look for rank 0 until it is there, prove themselves, and wait until all are.

use super::address::to_join;
use super::error::{MeetError, Seconds, note};
use super::fault::Fault;
use super::frame::{Decoder, Kind, NoFrame, VERSION, frame};
use super::greeting::{Claim, GREETING, Nonce, Refusal};
use super::meeting::Meeting;
use super::random::fresh;
use super::token::Key;
use super::wire::{Lost, read, write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How long it waits between two rounds, at first and at last.
const ROUND: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(100)];

/// What became of one try.
enum Try {
    /// It may be better next time.
    Again(String),
    /// Whoever answered there is not who is looked for, or this rank is wrong; where ranks may meet on one port only, it is the latter.
    Elsewhere(MeetError),
    /// It will not be better.
    Never(MeetError),
}

/// The connection to rank 0, once all are here.
pub(super) fn join(meeting: &Meeting) -> Result<(TcpStream, Decoder), MeetError> {
    let (start, until) = (Instant::now(), Instant::now() + meeting.patience);
    let addresses = to_join(meeting, until)?;
    let key = meeting.key();
    let mut notes = vec![];
    let mut refused = None;
    let mut nap = ROUND[0];
    loop {
        for address in &addresses {
            match greet(meeting, &key, *address, until) {
                Ok(joined) => return Ok(joined),
                Err(Try::Again(why)) => note(&mut notes, &format!("{address}: {why}")),
                Err(Try::Elsewhere(e)) if meeting.place.port == meeting.place.last => return Err(e),
                Err(Try::Elsewhere(e)) => refused = Some(e),
                Err(Try::Never(e)) => return Err(e),
            }
        }
        let now = Instant::now();
        if now >= until {
            let missing = MeetError::Missing {
                place: meeting.place.clone(),
                missing: vec![0],
                seconds: Seconds(now - start),
                notes,
            };
            return Err(refused.unwrap_or(missing));
        }
        thread::sleep(nap.min(until - now));
        nap = (nap * 2).min(ROUND[1]);
    }
}

fn greet(
    meeting: &Meeting,
    key: &Key,
    address: SocketAddr,
    until: Instant,
) -> Result<(TcpStream, Decoder), Try> {
    let start = Instant::now();
    let left = until.saturating_duration_since(start).max(Duration::from_millis(1));
    let again = |e: std::io::Error| Try::Again(e.to_string());
    let mut stream = TcpStream::connect_timeout(&address, left.min(meeting.greeting)).map_err(again)?;
    // A socket that is connected with itself, which happens on a port that nobody listens on.
    if stream.local_addr().is_ok_and(|own| own == address) {
        return Err(Try::Again("nobody listens there".into()));
    }
    stream.set_nodelay(true).map_err(again)?;
    let soon = (start + meeting.greeting).min(until.max(start + Duration::from_millis(1)));
    let hello = fresh().map_err(|e| Try::Never(MeetError::System(format!("no random numbers: {e}"))))?;
    let mut decoder = Decoder::default();
    write(&stream, &frame(Kind::Hello, &hello), soon).map_err(again)?;
    let body = next(&mut stream, &mut decoder, Kind::Challenge, soon, meeting, None, key)?;
    let challenge = Nonce::try_from(body).map_err(|_| stranger())?;
    let claim = Claim { hello, challenge, rank: meeting.rank, size: meeting.size };
    write(&stream, &frame(Kind::Answer, &claim.answer(key)), soon).map_err(again)?;
    let body = next(&mut stream, &mut decoder, Kind::Welcome, soon, meeting, Some(&claim), key)?;
    if !claim.is_welcome(&body, key) {
        return Err(Try::Elsewhere(MeetError::WrongToken { place: meeting.place.clone() }));
    }
    // Rank 0 says who is missing at its own deadline, which may be a little later.
    let end = until + meeting.silence.max(Duration::from_millis(200));
    let most = |kind| if kind == Kind::Over { Fault::most(meeting.size) } else { 0 };
    match read(&mut stream, &mut decoder, most, end) {
        Ok(said) if said.kind == Kind::Start => Ok((stream, decoder)),
        Ok(said) if said.kind == Kind::Over => Err(match Fault::decode(&said.body) {
            Some(Fault::Missing { ranks, .. }) => Try::Never(MeetError::Missing {
                place: meeting.place.clone(),
                missing: ranks,
                seconds: Seconds(start.elapsed()),
                notes: vec![],
            }),
            Some(fault) => Try::Never(MeetError::Lost(fault)),
            None => stranger(),
        }),
        Ok(_) | Err(Lost::NoFrame(_)) => Err(stranger()),
        Err(Lost::Closed) => Err(Try::Again("rank 0 was there and is gone".into())),
        Err(Lost::Late) => Err(Try::Again("rank 0 is there and says nothing".into())),
    }
}

fn stranger() -> Try {
    Try::Again("what answers there is no rank of annulus".into())
}

/// The body of the message that comes next, or what rank 0 has against this rank.
fn next(
    stream: &mut TcpStream,
    decoder: &mut Decoder,
    kind: Kind,
    until: Instant,
    meeting: &Meeting,
    claim: Option<&Claim>,
    key: &Key,
) -> Result<Vec<u8>, Try> {
    let other = |theirs| Try::Elsewhere(MeetError::OtherVersion { ours: VERSION, theirs });
    let said = match read(stream, decoder, |_| GREETING, until) {
        Ok(said) => said,
        Err(Lost::NoFrame(NoFrame::Version(theirs))) => return Err(other(theirs)),
        Err(Lost::NoFrame(_)) => return Err(stranger()),
        Err(Lost::Closed) => return Err(Try::Again("it hung up".into())),
        Err(Lost::Late) => return Err(Try::Again("it says nothing".into())),
    };
    if said.kind == kind {
        return Ok(said.body);
    }
    let refusal = if said.kind == Kind::Refused { Refusal::of_body(&said.body, claim, key) } else { None };
    let place = || meeting.place.clone();
    Err(match refusal {
        None => stranger(),
        Some((Refusal::Version(theirs), _)) => other(theirs),
        Some((Refusal::Token, _)) => Try::Elsewhere(MeetError::WrongToken { place: place() }),
        // Only one that holds the token has a say in these.
        Some((Refusal::Size(_) | Refusal::Taken, false)) => stranger(),
        Some((Refusal::Size(theirs), true)) => {
            Try::Elsewhere(MeetError::OtherSize { ours: meeting.size, theirs })
        }
        Some((Refusal::Taken, true)) => Try::Elsewhere(MeetError::Taken { rank: meeting.rank }),
    })
}
