//! Whatever bytes come in, in whatever pieces: frames come out as they went in, or it is said that they are none; and a rank 0 that is fed with
//! them still meets the right ones.

use super::{LONG, connect, meeting, place};
use annulus::exec::group::frame::{Decoder, Kind, NoFrame, VERSION, frame, frame_of};
use annulus::exec::group::greeting::GREETING;
use proptest::prelude::*;
use std::io::Write;
use std::thread;

const MOST: usize = 300;

fn all(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Vec<u8>>, NoFrame> {
    let mut decoder = Decoder::default();
    let (mut out, mut rest, mut cuts) = (vec![], bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let n = (*cuts.next().unwrap_or(&1)).clamp(1, rest.len());
        decoder.feed(&rest[..n]);
        rest = &rest[n..];
        while let Some(said) = decoder.next(|_| MOST)? {
            out.push(said.body);
        }
        // No more is kept than a frame may have, and a piece.
        assert!(decoder.held() <= 12 + MOST + n);
    }
    Ok(out)
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..MOST), 0..6),
        pieces in prop::collection::vec(1usize..700, 1..5),
    ) {
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| frame(Kind::Ask, body)).collect();
        prop_assert_eq!(all(&bytes, &pieces), Ok(bodies));
    }

    #[test]
    fn no_bytes_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        good in any::<bool>(),
        flip in (0usize..400, any::<u8>()),
        pieces in prop::collection::vec(1usize..50, 1..4),
    ) {
        if good {
            bytes = frame(Kind::Given, &bytes[..bytes.len().min(MOST)]);
            let at = flip.0 % bytes.len();
            bytes[at] ^= flip.1;
        }
        let _ = all(&bytes, &pieces);
    }
}

#[test]
fn a_length_is_compared_before_anything_is_kept() {
    let mut long = frame(Kind::Ask, &[]);
    long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(all(&long, &[12]), Err(NoFrame::Long));
    assert_eq!(all(&frame(Kind::Ask, &[0; MOST + 1])[..12], &[12]), Err(NoFrame::Long));
    assert_eq!(all(&frame_of(VERSION + 1, Kind::Ask, &[]), &[5]), Err(NoFrame::Version(VERSION + 1)));
    // Junk is seen with its first byte.
    assert_eq!(all(b"GET", &[1]), Err(NoFrame::Junk));
    let mut odd = frame(Kind::Ask, &[]);
    odd[6] = 99;
    assert_eq!(all(&odd, &[12]), Err(NoFrame::Junk));
}

#[test]
fn rank_0_meets_the_right_ones_whatever_else_comes() {
    let place = place();
    let first = meeting(0, 2, &place);
    let met = thread::spawn(move || {
        first.meet().map(|mut group| group.barrier(LONG).and_then(|()| group.leave(LONG)))
    });
    // Numbers that look random and are the same in every run.
    let mut state = 1u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let mut open = vec![];
    for i in 0..1000 {
        let mut stream = connect(&place);
        let length = usize::from(next()) % 100;
        let junk: Vec<u8> = (0..length).map(|_| next()).collect();
        let bytes = match i % 5 {
            0 => junk,
            1 => frame(Kind::Hello, &junk[..junk.len().min(GREETING)]),
            2 => [frame(Kind::Hello, &[7; 32]), frame(Kind::Answer, &[7; 40])].concat(),
            3 => frame(Kind::Hello, &[7; 32])[..20].to_vec(),
            _ => vec![],
        };
        let _ = stream.write_all(&bytes);
        // Some hang up at once, and some never.
        if i % 3 == 0 {
            open.push(stream);
        }
    }
    let mut group = meeting(1, 2, &place).meet().unwrap();
    group.barrier(LONG).unwrap();
    group.leave(LONG).unwrap();
    met.join().unwrap().unwrap().unwrap();
    assert!(open.len() > 100);
}
