//! Numbers of a graph in the texts for its reader.

/// The shortest decimal that reads back as the number: in f32 where f32 holds it, as it does every number of a half type, and
/// in f64 otherwise.
pub(crate) fn decimal(x: f64) -> String {
    let narrow = x as f32;
    let text = match x {
        f64::INFINITY => return "∞".into(),
        f64::NEG_INFINITY => return "−∞".into(),
        _ if f64::from(narrow) == x => format!("{narrow:?}"),
        _ => format!("{x:?}"),
    };
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn numbers_of_f32_have_the_digits_of_f32() {
        assert_eq!(decimal(f64::from(1e-6f32)), "1e-6");
        assert_eq!(decimal(f64::from(f32::MIN)), "-3.4028235e38");
        assert_eq!(decimal(-10000.0), "-10000");
    }

    #[test]
    fn others_have_the_digits_of_f64() {
        assert_eq!(decimal(1e-6), "1e-6");
        assert_eq!(decimal(0.1 + 0.2), "0.30000000000000004");
        assert_eq!(decimal(f64::NEG_INFINITY), "−∞");
    }
}
