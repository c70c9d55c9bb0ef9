//! The four messages by which a rank and rank 0 prove to each other that they hold the token, and what rank 0 says to those that it refuses.
//!
//! `Hello` brings a fresh number, `Challenge` another; `Answer` says who it is and signs both numbers with the token, `Welcome` signs them
//! back. An answer that was heard before fits no later challenge. What rank 0 refuses of one that holds the token, it signs too.

use super::token::Key;
use super::words::{Reader, put_number};

/// A fresh number.
pub(crate) type Nonce = [u8; 32];

/// The most bytes that the body of a message of the greeting has.
pub(crate) const GREETING: usize = 64;

/// Who comes, and the numbers that both sides chose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) hello: Nonce,
    pub(crate) challenge: Nonce,
    pub(crate) rank: usize,
    pub(crate) size: usize,
}

impl Claim {
    fn sign(&self, key: &Key, label: &str, more: &[u8]) -> [u8; 32] {
        let who = self.who();
        key.sign(label, &[&self.hello, &self.challenge, &who, more])
    }

    fn holds(&self, key: &Key, label: &str, more: &[u8], proof: &[u8]) -> bool {
        let who = self.who();
        key.holds(label, &[&self.hello, &self.challenge, &who, more], proof)
    }

    fn who(&self) -> Vec<u8> {
        let mut out = vec![];
        put_number(&mut out, self.rank);
        put_number(&mut out, self.size);
        out
    }

    /// The body of an answer.
    pub(crate) fn answer(&self, key: &Key) -> Vec<u8> {
        let mut out = self.who();
        out.extend_from_slice(&self.sign(key, "answer", b""));
        out
    }

    /// Who an answer says that it is, and whether it proves it.
    pub(crate) fn of_answer(body: &[u8], hello: Nonce, challenge: Nonce, key: &Key) -> Option<(Claim, bool)> {
        let mut r = Reader(body);
        let claim = Claim { hello, challenge, rank: r.number()?, size: r.number()? };
        let proof = r.take(32)?;
        r.end((claim, claim.holds(key, "answer", b"", proof)))
    }

    /// The body of a welcome.
    pub(crate) fn welcome(&self, key: &Key) -> Vec<u8> {
        self.sign(key, "welcome", b"").to_vec()
    }

    /// Whether a welcome is rank 0's.
    pub(crate) fn is_welcome(&self, body: &[u8], key: &Key) -> bool {
        self.holds(key, "welcome", b"", body)
    }
}

/// Why rank 0 refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It speaks this version.
    Version(u16),
    /// The proof is not the token's.
    Token,
    /// It waits for so many ranks.
    Size(usize),
    /// There is no such rank, or it is here already.
    Taken,
}

impl Refusal {
    fn words(self) -> Vec<u8> {
        let (kind, number) = match self {
            Refusal::Version(v) => (0, usize::from(v)),
            Refusal::Token => (1, 0),
            Refusal::Size(n) => (2, n),
            Refusal::Taken => (3, 0),
        };
        let mut out = vec![kind];
        put_number(&mut out, number);
        out
    }

    /// Its body; signed where rank 0 knows that the other side holds the token.
    pub(crate) fn body(self, to: Option<(&Claim, &Key)>) -> Vec<u8> {
        let mut out = self.words();
        let proof = to.map_or([0; 32], |(claim, key)| claim.sign(key, "refused", &out));
        out.extend_from_slice(&proof);
        out
    }

    /// What a body says, and whether rank 0 signed it.
    pub(crate) fn of_body(body: &[u8], claim: Option<&Claim>, key: &Key) -> Option<(Refusal, bool)> {
        let mut r = Reader(body);
        let (kind, number) = (r.byte()?, r.number()?);
        let proof = r.take(32)?;
        let refusal = match kind {
            0 => Refusal::Version(u16::try_from(number).ok()?),
            1 => Refusal::Token,
            2 => Refusal::Size(number),
            3 => Refusal::Taken,
            _ => return None,
        };
        let signed = claim.is_some_and(|c| c.holds(key, "refused", &refusal.words(), proof));
        r.end((refusal, signed))
    }
}
