//! Ranks meet, and each fault is told to the side that is wrong while the right ones still meet.

use super::{LONG, connect, meeting, met, place, ranks};
use annulus::exec::group::frame::{Decoder, Frame, Kind, NoFrame, VERSION, frame, frame_of};
use annulus::exec::group::greeting::{Claim, GREETING, Nonce, Refusal};
use annulus::exec::group::{Key, MeetError, Meeting, Place, Token};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

fn token(letter: char) -> Option<Token> {
    Some(Token::new(letter.to_string().repeat(32)).unwrap())
}

#[test]
fn ranks_meet_whenever_they_come() {
    for size in [1, 2, 3, 4, 8] {
        let seen = met(size, |group| {
            let seen = (group.rank(), group.size());
            group.leave(LONG).unwrap();
            seen
        });
        assert_eq!(seen, (0..size).map(|rank| (rank, size)).collect::<Vec<_>>());
    }
    // With a token, by a name, and rank 0 last.
    let place = Place { host: "localhost".into(), ..place() };
    let seen: Vec<_> = thread::scope(|s| {
        let start = |rank| {
            let place = &place;
            s.spawn(move || {
                let mut meeting = meeting(rank, 3, place);
                meeting.token = token('a');
                if rank == 0 {
                    thread::sleep(Duration::from_millis(100));
                }
                meeting.meet().unwrap().leave(LONG)
            })
        };
        [0, 1, 2].map(start).map(|t| t.join().unwrap()).into()
    });
    assert_eq!(seen, [Ok(()), Ok(()), Ok(())]);
}

#[test]
fn ranks_meet_over_ipv6() {
    if TcpListener::bind(("::1", 0)).is_err() {
        super::super::support::data::say("this host has no IPv6: nothing was tested");
        return;
    }
    let done = ranks(
        3,
        |m| m.place.host = "::1".into(),
        |_, group| {
            let mut group = group.unwrap();
            group.barrier(LONG).unwrap();
            group.leave(LONG)
        },
    );
    assert_eq!(done, [Ok(()), Ok(()), Ok(())]);
}

/// Rank 0 and rank 1 of two, with what comes between them; the errors of what came.
fn beside<T>(set: impl Fn(&mut Meeting), other: impl FnOnce(&Meeting) -> T) -> T {
    let place = place();
    let with = |rank| {
        let mut out = meeting(rank, 2, &place);
        set(&mut out);
        out
    };
    let first = with(0);
    let met = thread::spawn(move || first.meet().map(|group| group.leave(LONG)));
    let came = other(&with(1));
    let group = with(1).meet().unwrap();
    group.leave(LONG).unwrap();
    met.join().unwrap().unwrap().unwrap();
    came
}

#[test]
fn whoever_is_wrong_is_told_and_the_right_ones_meet() {
    let right = |m: &mut Meeting| m.token = token('a');
    let error = |change: &dyn Fn(&mut Meeting)| {
        beside(right, |m| {
            let mut wrong = m.clone();
            change(&mut wrong);
            wrong.meet().unwrap_err()
        })
    };
    for change in
        [(&|m: &mut Meeting| m.token = token('b')) as &dyn Fn(&mut Meeting), &|m| m.token = None, &|m| {
            m.job = "another".into()
        }]
    {
        let said = error(change);
        assert!(matches!(said, MeetError::WrongToken { .. }), "{said}");
    }
    assert_eq!(error(&|m| m.size = 3), MeetError::OtherSize { ours: 3, theirs: 2 });
    // Only where the other side holds no token.
    let said = beside(
        |_| {},
        |m| {
            let mut wrong = m.clone();
            wrong.token = token('a');
            wrong.meet().unwrap_err()
        },
    );
    assert!(matches!(said, MeetError::WrongToken { .. }), "{said}");
    let none = Meeting::new(2, 2, place()).meet().unwrap_err();
    assert_eq!(none, MeetError::Rank { rank: 2, size: 2 });
    assert!(Meeting::new(0, 5000, place()).meet().is_err());
}

/// A connection on which a test says what it likes.
struct Raw {
    stream: TcpStream,
    decoder: Decoder,
}

impl Raw {
    fn to(place: &Place) -> Raw {
        Raw::on(connect(place))
    }

    fn on(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(LONG)).unwrap();
        Raw { stream, decoder: Decoder::default() }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// What comes next; nothing at the end.
    fn hear(&mut self) -> Result<Option<Frame>, NoFrame> {
        let mut piece = [0; 512];
        loop {
            if let Some(said) = self.decoder.next(|_| 4096)? {
                return Ok(Some(said));
            }
            match self.stream.read(&mut piece) {
                Ok(0) | Err(_) => return Ok(None),
                Ok(n) => self.decoder.feed(&piece[..n]),
            }
        }
    }

    /// Proves itself as a rank with a key; what it said, and what comes of it.
    fn greet(&mut self, rank: usize, size: usize, key: &Key) -> (Vec<Vec<u8>>, Claim, Frame) {
        let hello: Nonce = [3; 32];
        let said = frame(Kind::Hello, &hello);
        self.say(&said);
        let challenge = self.hear().unwrap().unwrap();
        assert_eq!(challenge.kind, Kind::Challenge);
        let claim = Claim { hello, challenge: challenge.body.try_into().unwrap(), rank, size };
        let answer = frame(Kind::Answer, &claim.answer(key));
        self.say(&answer);
        let came = self.hear().unwrap().unwrap();
        (vec![said, answer], claim, came)
    }
}

#[test]
fn an_answer_that_was_heard_before_is_refused() {
    let right = |m: &mut Meeting| m.token = token('a');
    beside(right, |m| {
        let key = Key::new(m.token.as_ref(), &m.job);
        // One of another size is refused, but its proof is right: said again, it is not.
        let mut first = Raw::to(&m.place);
        let (said, claim, refused) = first.greet(1, 3, &key);
        assert_eq!(Refusal::of_body(&refused.body, Some(&claim), &key), Some((Refusal::Size(2), true)));
        let mut again = Raw::to(&m.place);
        said.iter().for_each(|bytes| again.say(bytes));
        assert_eq!(again.hear().unwrap().unwrap().kind, Kind::Challenge);
        let refused = again.hear().unwrap().unwrap();
        assert_eq!(Refusal::of_body(&refused.body, None, &key), Some((Refusal::Token, false)));
        assert_eq!(again.hear(), Ok(None));
    });
}

#[test]
fn a_rank_that_comes_twice_is_told_and_one_that_is_gone_may_come_again() {
    let place = place();
    let with = |rank| meeting(rank, 3, &place);
    let (first, key) = (with(0), Key::new(None, ""));
    let met = thread::spawn(move || first.meet().map(|group| group.leave(LONG)));
    let mut one = Raw::to(&place);
    assert_eq!(one.greet(1, 3, &key).2.kind, Kind::Welcome);
    assert_eq!(with(1).meet().unwrap_err(), MeetError::Taken { rank: 1 });
    let mut zero = Raw::to(&place);
    let (_, claim, refused) = zero.greet(0, 3, &key);
    assert_eq!(Refusal::of_body(&refused.body, Some(&claim), &key), Some((Refusal::Taken, true)));
    let mut nine = Raw::to(&place);
    assert_eq!(nine.greet(9, 3, &key).2.kind, Kind::Refused);
    drop(one);
    let rest = [1, 2].map(|rank| {
        let rank = with(rank);
        thread::spawn(move || rank.meet().map(|group| group.leave(LONG)))
    });
    for rank in rest {
        rank.join().unwrap().unwrap().unwrap();
    }
    met.join().unwrap().unwrap().unwrap();
}

#[test]
fn another_version_is_named_on_the_side_that_is_refused() {
    beside(
        |_| {},
        |m| {
            let mut newer = Raw::to(&m.place);
            newer.say(&frame_of(VERSION + 1, Kind::Hello, &[1, 2, 3]));
            let refused = newer.hear().unwrap().unwrap();
            let said = Refusal::of_body(&refused.body, None, &Key::new(None, ""));
            assert_eq!(said, Some((Refusal::Version(VERSION), false)));
        },
    );
    // A rank 0 that is newer: as it refuses, and as it speaks.
    for version in [VERSION, VERSION + 1] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let place = Place::new("127.0.0.1", listener.local_addr().unwrap().port());
        let newer = thread::spawn(move || {
            let mut raw = Raw::on(listener.accept().unwrap().0);
            raw.hear().unwrap();
            raw.say(&frame_of(version, Kind::Refused, &Refusal::Version(VERSION + 1).body(None)));
        });
        let said = meeting(1, 2, &place).meet().unwrap_err();
        assert_eq!(said, MeetError::OtherVersion { ours: VERSION, theirs: VERSION + 1 });
        newer.join().unwrap();
    }
}

#[test]
fn who_is_missing_is_named_by_all_that_came() {
    let said = ranks(
        4,
        |m| {
            m.patience = Duration::from_millis(300);
            // They are of another job.
            if matches!(m.rank, 1 | 2) {
                m.job = "another".into();
            }
        },
        |_, group| group.unwrap_err(),
    );
    for rank in [0, 3] {
        let MeetError::Missing { missing, .. } = &said[rank] else { panic!("{}", said[rank]) };
        assert_eq!(missing, &[1, 2]);
    }
    assert!(said[0].to_string().contains("ranks 1 and 2 did not come to 127.0.0.1:"), "{}", said[0]);
    assert!(said[0].to_string().ends_with("(from 127.0.0.1: a wrong token)"), "{}", said[0]);
    // Without rank 0.
    let mut alone = Meeting::new(1, 2, place());
    alone.patience = Duration::from_millis(50);
    let said = alone.meet().unwrap_err();
    assert!(
        matches!(&said, MeetError::Missing { missing, notes, .. } if missing == &[0] && notes.len() == 1),
        "{said}"
    );
}

#[test]
fn what_is_no_rank_0_holds_nobody_longer_than_the_limit() {
    for words in
        [&b""[..], b"HTTP/1.1 200 OK\r\n\r\n", &frame(Kind::Start, &[]), &frame(Kind::Challenge, &[1; 7])]
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let place = Place::new("127.0.0.1", listener.local_addr().unwrap().port());
        listener.set_nonblocking(true).unwrap();
        let mut rank = Meeting::new(1, 2, place);
        (rank.patience, rank.greeting) = (Duration::from_millis(100), Duration::from_millis(40));
        let start = Instant::now();
        let asked = thread::spawn(move || rank.meet().unwrap_err());
        let mut open = vec![];
        while !asked.is_finished() {
            if let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(words);
                open.push(stream);
            }
            thread::sleep(Duration::from_millis(1));
        }
        let said = asked.join().unwrap();
        assert!(matches!(&said, MeetError::Missing { missing, .. } if missing == &[0]), "{said}");
        assert!(start.elapsed() < LONG && !open.is_empty());
    }
}

#[test]
fn rank_0_takes_the_first_port_that_is_free() {
    // Somebody else listens on the first.
    let (taken, first) = loop {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        if port < u16::MAX - 8 {
            break (taken, port);
        }
    };
    let done = ranks(
        3,
        |m| {
            (m.place.port, m.place.last) = (first, first + 7);
            m.greeting = Duration::from_millis(100);
        },
        |_, group| group.unwrap().leave(LONG),
    );
    assert_eq!(done, [Ok(()), Ok(()), Ok(())]);
    let said = meeting(0, 2, &Place::new("127.0.0.1", first)).meet().unwrap_err();
    assert!(matches!(said, MeetError::Listen { .. }), "{said}");
    drop(taken);
}

#[test]
fn without_a_token_nothing_leaves_the_host() {
    for rank in [0, 1] {
        let said = meeting(rank, 2, &Place::new("192.0.2.1", 4000)).meet().unwrap_err();
        assert!(
            matches!(said, MeetError::NoToken { .. }) && said.to_string().contains("ANNULUS_TOKEN"),
            "{said}"
        );
    }
    let mut nowhere = meeting(1, 2, &Place::new("no such host.invalid", 4000));
    nowhere.token = token('a');
    nowhere.patience = Duration::from_secs(2);
    let said = nowhere.meet().unwrap_err();
    assert!(matches!(said, MeetError::Host { .. }), "{said}");
}

#[test]
fn a_greeting_has_bounded_messages() {
    let key = Key::new(token('a').as_ref(), "a job");
    let claim = Claim { hello: [1; 32], challenge: [2; 32], rank: 4095, size: 4096 };
    let refusal = Refusal::Size(4096).body(Some((&claim, &key)));
    for body in [claim.answer(&key), claim.welcome(&key), refusal.clone()] {
        assert!(body.len() <= GREETING);
    }
    // Neither side's proof is the other's, and a refusal's is of its words.
    assert!(!claim.is_welcome(&claim.answer(&key)[8..], &key));
    let mut turned = refusal;
    turned[1] ^= 1;
    assert_eq!(Refusal::of_body(&turned, Some(&claim), &key), Some((Refusal::Size(4097), false)));
}
