//! What a rank knows before it meets the others.

use super::environment::{Launched, Place, Variables, job, place};
use super::error::MeetError;
use super::token::{Key, Token};
use crate::shard::MAX_RANKS;
use std::time::Duration;

/// No limit is longer: some thirty years.
pub(super) const LONGEST: Duration = Duration::from_secs(1 << 30);

/// What a rank knows before it meets the others. All ranks of a job are told the same, but for `rank`.
#[derive(Clone, Debug)]
pub struct Meeting {
    /// This rank, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Where rank 0 listens.
    pub place: Place,
    /// What they know and nobody else; without one they meet on the loopback interface alone.
    pub token: Option<Token>,
    /// The name of the job, so that two jobs with one token do not mix.
    pub job: String,
    /// How long all may take to come: 60 s unless it is set. Of what they do together later, each is told its own limit.
    pub patience: Duration,
    /// How long a rank may give no sign before it counts as dead: 0.7 s unless it is set. Signs are given eight times as often, by a
    /// thread of its own.
    pub silence: Duration,
    /// How long one connection may take to prove itself: 2 s unless it is set.
    pub greeting: Duration,
}

impl Meeting {
    /// A meeting without a token.
    pub fn new(rank: usize, size: usize, place: Place) -> Meeting {
        Meeting {
            rank,
            size,
            place,
            token: None,
            job: String::new(),
            patience: Duration::from_secs(60),
            silence: Duration::from_millis(700),
            greeting: Duration::from_secs(2),
        }
    }

    /// The meeting that the environment of a launched rank describes.
    ///
    /// # Errors
    /// A variable is wrong, or none says where to meet.
    pub fn of(variables: &Variables, launched: &Launched) -> Result<Meeting, MeetError> {
        let mut out = Meeting::new(launched.rank, launched.size, place(variables, launched)?);
        out.token = Token::from_environment(variables)?;
        out.job = job(variables, launched);
        Ok(out)
    }

    pub(super) fn key(&self) -> Key {
        Key::new(self.token.as_ref(), &self.job)
    }

    /// The meeting with limits that a clock can count.
    ///
    /// # Errors
    /// Rank and size are none.
    pub(super) fn checked(&self) -> Result<Meeting, MeetError> {
        let Meeting { rank, size, .. } = *self;
        if rank >= size || size > MAX_RANKS {
            return Err(MeetError::Rank { rank, size });
        }
        let mut out = self.clone();
        for limit in [&mut out.patience, &mut out.silence, &mut out.greeting] {
            *limit = (*limit).min(LONGEST);
        }
        Ok(out)
    }
}
