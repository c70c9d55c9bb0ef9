//! Variables, and numbers in them.

use super::error::EnvironmentError;
use std::collections::BTreeMap;

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// Those of this process. What is no text in a value is replaced, so that it is refused where it is read.
pub fn variables() -> Variables {
    let all = std::env::vars_os();
    all.map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect()
}

/// The value of a variable that is set to something.
pub(in crate::exec::group) fn given<'a>(variables: &'a Variables, name: &str) -> Option<&'a str> {
    variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// A number in digits.
pub(super) fn number(name: &'static str, value: &str) -> Result<usize, EnvironmentError> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| value.parse().ok()).flatten();
    number.ok_or_else(|| EnvironmentError::value(name, value, "want a whole number"))
}

/// The number of a variable that is set.
pub(super) fn number_of(
    variables: &Variables,
    name: &'static str,
) -> Result<Option<usize>, EnvironmentError> {
    given(variables, name).map(|value| number(name, value)).transpose()
}
