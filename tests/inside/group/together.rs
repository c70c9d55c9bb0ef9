//! What ranks do together, and what each of them says where one fails: the same, by name, on all.

use super::{LONG, connect, meeting, met, place, ranks};
use annulus::exec::group::frame::{Decoder, Kind, frame};
use annulus::exec::group::greeting::{Claim, Nonce};
use annulus::exec::group::{Abort, Death, Difference, Facts, Fault, Group, Key, Meeting};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

const SIZES: [usize; 5] = [1, 2, 3, 4, 8];

/// The fault, as soon as it is known.
fn fault(group: &Group) -> Fault {
    let until = Instant::now() + LONG;
    loop {
        match group.poll() {
            Err(fault) => return fault,
            Ok(()) => assert!(Instant::now() < until, "rank {} knows of nothing", group.rank()),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn bytes_come_to_all() {
    for size in SIZES {
        let seen = met(size, |mut group| {
            // No limit is too long to be counted.
            group.barrier(Duration::MAX).unwrap();
            let rank = group.rank();
            let mine = vec![rank as u8; 1000 * rank];
            let id = group.share(&[7; 128], LONG).unwrap();
            let own = group.share(&mine, LONG).unwrap();
            let all = group.gather(&mine, LONG).unwrap();
            group.barrier(LONG).unwrap();
            let most = vec![rank as u8; group.most()];
            let large = group.gather(&most, LONG).unwrap();
            assert!(large.iter().enumerate().all(|(r, part)| part.len() == most.len() && part[0] == r as u8));
            group.poll().unwrap();
            group.leave(LONG).unwrap();
            (id, own, all)
        });
        let all: Vec<Vec<u8>> = (0..size).map(|rank| vec![rank as u8; 1000 * rank]).collect();
        assert!(seen.iter().all(|(id, own, got)| id == &[7; 128] && own.is_empty() && *got == all), "{size}");
    }
}

#[test]
fn ranks_agree_or_all_say_what_differs() {
    for size in SIZES {
        let said = met(size, |mut group| {
            let rank = group.rank();
            let long = "x".repeat(500);
            let facts = Facts::new().with("hash of schedules", "5d3f").with("shapes", long.clone());
            let same = group.agree(&facts, LONG).unwrap();
            // Long values differ behind what is shown of them.
            let last = rank + 1 == size;
            let hash = if last { "9aa0" } else { "5d3f" };
            let facts = Facts::new()
                .with("hash of schedules", hash)
                .with("shapes", format!("{long}{}", last && size > 1));
            let facts = if last { facts.with("option", "on") } else { facts };
            let other = group.agree(&facts, LONG).unwrap();
            // Nobody is lost by it.
            group.barrier(LONG).unwrap();
            group.leave(LONG).unwrap();
            (same, other)
        });
        assert!(said.iter().all(|(same, _)| *same == Ok(())));
        assert!(said.iter().all(|(_, other)| *other == said[0].1));
        let Err(other) = &said[0].1 else {
            assert_eq!(size, 1);
            continue;
        };
        let names: Vec<&str> = other.0.iter().map(|d| d.fact.as_str()).collect();
        assert_eq!(names, ["hash of schedules", "option", "shapes"]);
        let ranks = |ranks: std::ops::Range<usize>| ranks.collect::<Vec<_>>();
        let want = Difference {
            fact: "hash of schedules".into(),
            values: vec![
                (Some("5d3f".into()), ranks(0..size - 1)),
                (Some("9aa0".into()), ranks(size - 1..size)),
            ],
        };
        assert_eq!(other.0[0], want);
        if size == 4 {
            let text = other.to_string();
            let says = "ranks do not agree on the hash of schedules: ranks 0 to 2 say 5d3f, rank 3 says 9aa0; \
                        the option: ranks 0 to 2 say nothing of it, rank 3 says on; the shapes: ";
            assert!(text.starts_with(says), "{text}");
        }
    }
}

#[test]
fn a_rank_that_gives_up_is_heard_by_all() {
    for size in [2, 3, 4, 8] {
        for who in [0, size - 1] {
            let said = met(size, |mut group| {
                if group.rank() == who {
                    let message = "no memory ".repeat(1000);
                    let operation = "sendrecv g3".into();
                    group.abort(Abort { step: Some(7), operation, peer: Some(1), message });
                    // Called twice it changes nothing.
                    group.abort(Abort::because("again"));
                } else {
                    // Whoever waits is woken.
                    assert!(group.barrier(LONG).is_err());
                }
                let (fault, later) = (fault(&group), group.gather(&[], LONG).unwrap_err());
                assert_eq!(fault, later);
                fault
            });
            assert!(said.iter().all(|fault| *fault == said[0]), "{said:?}");
            let text = said[0].to_string();
            assert!(text.starts_with(&format!("rank {who} gave up, step 7, sendrecv g3, peer 1: no memory")));
            assert!(text.len() < 1200, "{}", text.len());
        }
    }
}

#[test]
fn a_rank_that_leaves_early_is_named() {
    for size in [2, 3, 4, 8] {
        for who in [0, size - 1] {
            let said = met(size, |group| {
                if group.rank() == who {
                    return None;
                }
                Some(fault(&group))
            });
            assert!(said.iter().flatten().all(|fault| *fault == Fault::Left { rank: who }), "{said:?}");
            assert_eq!(said.iter().flatten().count(), size - 1);
        }
    }
}

#[test]
fn who_does_not_come_to_what_all_do_is_named() {
    let limit = Duration::from_millis(150);
    // Others than rank 0 wait that much longer for its word.
    let soon = |m: &mut Meeting| m.silence = Duration::from_secs(1);
    for late in [vec![1, 2], vec![0]] {
        let said = ranks(4, soon, |_, group| {
            let mut group = group.unwrap();
            let done = if late.contains(&group.rank()) { Ok(()) } else { group.barrier(limit) };
            // Those that are late hear of it.
            done.err().unwrap_or_else(|| fault(&group))
        });
        for (rank, fault) in said.iter().enumerate() {
            assert_eq!(
                fault,
                &Fault::Missing { ranks: late.clone(), during: "barrier (number 1)".into() },
                "{rank}"
            );
        }
    }
    // The end is one of these things.
    let said =
        met(3, |group| if group.rank() == 1 { fault(&group) } else { group.leave(limit).unwrap_err() });
    assert!(
        said.iter().all(|f| *f == Fault::Missing { ranks: vec![1], during: "the end".into() }),
        "{said:?}"
    );
    assert_eq!(said[0].to_string(), "rank 1 did not come to the end in time");
}

#[test]
fn ranks_that_do_different_things_find_out() {
    let said = met(3, |mut group| match group.rank() {
        2 => group.gather(&[], LONG).map(drop).unwrap_err(),
        _ => group.barrier(LONG).unwrap_err(),
    });
    let text = "rank 2 is at gather (number 1) where rank 0 is at barrier (number 1): ranks must do the same in the same order";
    assert!(said.iter().all(|fault| fault.to_string() == text), "{said:?}");
    let said = met(2, |mut group| {
        let bytes = vec![0; group.most() + group.rank()];
        group.gather(&bytes, LONG).unwrap_err()
    });
    let text = "rank 1 gave up, gather: 65537 bytes are more than the 65536 that a rank may bring";
    assert!(said.iter().all(|fault| fault.to_string() == text), "{said:?}");
}

/// A rank 1 of three that a test speaks for, once it has met ranks 0 and 2; and what these say in the end.
fn beside(silence: Duration, speak: impl FnOnce(&mut TcpStream)) -> Vec<Fault> {
    let place = place();
    let others = [0, 2].map(|rank| {
        let mut meeting = meeting(rank, 3, &place);
        meeting.silence = silence;
        thread::spawn(move || fault(&meeting.meet().unwrap()))
    });
    let mut stream = connect(&place);
    let mut decoder = Decoder::default();
    let mut hear = |stream: &mut TcpStream, kind| {
        let mut byte = [0];
        loop {
            if let Some(said) = decoder.next(|_| 4096).unwrap() {
                assert_eq!(said.kind, kind);
                return said.body;
            }
            stream.read_exact(&mut byte).unwrap();
            decoder.feed(&byte);
        }
    };
    let hello: Nonce = [3; 32];
    stream.write_all(&frame(Kind::Hello, &hello)).unwrap();
    let challenge: Nonce = hear(&mut stream, Kind::Challenge).try_into().unwrap();
    let claim = Claim { hello, challenge, rank: 1, size: 3 };
    stream.write_all(&frame(Kind::Answer, &claim.answer(&Key::new(None, "")))).unwrap();
    hear(&mut stream, Kind::Welcome);
    hear(&mut stream, Kind::Start);
    speak(&mut stream);
    others.into_iter().map(|rank| rank.join().unwrap()).collect()
}

#[test]
fn a_rank_without_a_sign_of_life_is_dead() {
    let silence = Duration::from_millis(200);
    let start = Instant::now();
    let said = beside(silence, |_| {});
    assert!(said.iter().all(|f| *f == Fault::Died { rank: 1, how: Death::Silent(silence) }), "{said:?}");
    assert_eq!(said[0].to_string(), "rank 1 died: no sign of it for 0.20 s");
    assert!(start.elapsed() < LONG);
    // With signs, and then without a connection.
    let said = beside(silence, |stream| {
        for _ in 0..12 {
            stream.write_all(&frame(Kind::Beat, &[])).unwrap();
            thread::sleep(silence / 6);
        }
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    assert!(said.iter().all(|f| *f == Fault::Died { rank: 1, how: Death::Closed }), "{said:?}");
}

#[test]
fn a_rank_that_says_what_none_says_is_named() {
    for words in [
        b"GET / HTTP/1.1\r\n".to_vec(),
        frame(Kind::Given, &[]),
        frame(Kind::Bye, &[]),
        frame(Kind::Over, &[9, 9]),
        frame(Kind::Hello, &[]),
        frame(Kind::Ask, &vec![0; 70_000]),
        [frame(Kind::Ask, &[0; 8]), frame(Kind::Ask, &[0; 8])].concat(),
        [frame(Kind::Done, &[]), frame(Kind::Done, &[])].concat(),
    ] {
        let said = beside(Duration::from_secs(5), |stream| {
            // It may be hung up on before it has said all.
            let _ = stream.write_all(&words);
        });
        assert!(said.iter().all(|f| *f == Fault::Garbled { rank: 1 }), "{words:?}: {said:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_rank_says_the_others_end_with_one_fault(
        kinds in prop::collection::vec(0usize..12, 0..4),
        body in prop::collection::vec(any::<u8>(), 0..64),
        flip in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let all = [
            Kind::Hello, Kind::Challenge, Kind::Answer, Kind::Welcome, Kind::Refused, Kind::Start, Kind::Beat, Kind::Ask,
            Kind::Given, Kind::Over, Kind::Done, Kind::Bye,
        ];
        let mut words: Vec<u8> = kinds.iter().flat_map(|kind| frame(all[*kind], &body)).collect();
        if let Some((at, with)) = flip.filter(|_| !words.is_empty()) {
            let at = at.index(words.len());
            words[at] ^= with;
        }
        let said = beside(LONG, |stream| {
            let _ = stream.write_all(&words);
            // It may have been hung up on.
            let _ = stream.shutdown(std::net::Shutdown::Write);
        });
        // Rank 1 is at fault, or it told of a fault of its own making; both others say the same.
        prop_assert_eq!(&said[0], &said[1]);
    }
}

#[test]
fn signs_of_life_go_on_while_ranks_do_nothing() {
    let silence = Duration::from_millis(300);
    let said = ranks(
        3,
        |m| m.silence = silence,
        |_, group| {
            let group = group.unwrap();
            thread::sleep(silence * 2);
            group.poll().unwrap();
            group.leave(LONG)
        },
    );
    assert_eq!(said, [Ok(()), Ok(()), Ok(())]);
}
