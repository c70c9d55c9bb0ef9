//! The token of a job: what its ranks know and nobody else. Each side of a meeting proves that it holds it, without saying it.

use super::environment::{EnvironmentError, Variables, given};
use super::random::fresh;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The variable that holds the token.
pub const TOKEN: &str = "ANNULUS_TOKEN";
/// The variable that names the file that holds it.
pub const TOKEN_FILE: &str = "ANNULUS_TOKEN_FILE";

/// A token has so many bytes.
const LEAST: usize = 32;
const MOST: usize = 4096;

/// The secret of a job. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// A token of 32 to 4096 bytes.
    ///
    /// # Errors
    /// It is shorter or longer. What is said does not tell the token.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Token, String> {
        let bytes = bytes.into();
        match bytes.len() {
            LEAST..=MOST => Ok(Token(bytes)),
            n => Err(format!(
                "it has {n} bytes, and a token has {LEAST} to {MOST}, such as what `openssl rand -hex 32` prints"
            )),
        }
    }

    /// A fresh one: 64 digits of base 16, which are 256 random bits.
    ///
    /// # Errors
    /// The system has no random bytes to give.
    pub fn random() -> io::Result<Token> {
        Ok(Token(fresh()?.iter().flat_map(|b| format!("{b:02x}").into_bytes()).collect()))
    }

    /// As text, for the environment of children; none if it is no text.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The token that the environment gives by [`TOKEN`] or [`TOKEN_FILE`]; none if it gives none.
    ///
    /// # Errors
    /// Both are set, the token is too short, or the file cannot be read or may be read by others.
    pub fn from_environment(variables: &Variables) -> Result<Option<Token>, EnvironmentError> {
        let fault = |variable, why| EnvironmentError::Token { variable, why };
        match (given(variables, TOKEN), given(variables, TOKEN_FILE)) {
            (Some(_), Some(_)) => Err(fault(TOKEN_FILE, format!("{TOKEN} is set too: unset one of them"))),
            (Some(text), None) => Token::new(text).map(Some).map_err(|why| fault(TOKEN, why)),
            (None, Some(path)) => {
                Token::from_file(Path::new(path)).map(Some).map_err(|why| fault(TOKEN_FILE, why))
            }
            (None, None) => Ok(None),
        }
    }

    /// The token in a file that nobody but its owner may read or write (mode 0600). Line ends behind it are no part of it.
    ///
    /// # Errors
    /// The file cannot be read, is no file, has another mode, or holds no token.
    pub fn from_file(path: &Path) -> Result<Token, String> {
        let at = path.display();
        let said = |e: io::Error| format!("{at}: {e}");
        let file = File::open(path).map_err(said)?;
        // Of what was opened, not of what the name says a moment later.
        let about = file.metadata().map_err(said)?;
        if !about.is_file() {
            return Err(format!("{at} is no file"));
        }
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::MetadataExt::mode(&about) & 0o7777;
            if mode != 0o600 {
                return Err(format!("{at} has mode {mode:04o}, so others may reach it: chmod 600 {at}"));
            }
        }
        let mut bytes = vec![];
        file.take(MOST as u64 + 2).read_to_end(&mut bytes).map_err(said)?;
        while matches!(bytes.last(), Some(b'\n' | b'\r')) {
            bytes.pop();
        }
        Token::new(bytes).map_err(|why| format!("{at}: {why}"))
    }
}

/// What two sides prove to each other that they hold: the token, or that there is none, and of which job they are.
#[derive(Clone)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    pub(crate) fn new(token: Option<&Token>, job: &str) -> Key {
        let mut mac = keyed(token.map_or(&b"no token"[..], |t| &t.0));
        mac.update(if token.is_some() { b"annulus job " } else { b"annulus job without a token " });
        mac.update(job.as_bytes());
        Key(mac.finalize().into_bytes().to_vec())
    }

    /// The proof of what is said under a label.
    pub(crate) fn sign(&self, label: &str, said: &[&[u8]]) -> [u8; 32] {
        self.mac(label, said).finalize().into_bytes().into()
    }

    /// Whether that is the proof, in a time that does not tell how much of it is right.
    pub(crate) fn holds(&self, label: &str, said: &[&[u8]], proof: &[u8]) -> bool {
        self.mac(label, said).verify_slice(proof).is_ok()
    }

    fn mac(&self, label: &str, said: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = keyed(&self.0);
        for part in [label.as_bytes()].iter().chain(said) {
            // Behind their lengths, so that no two lists of parts are the same bytes.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes a key of any length"),
    }
}
