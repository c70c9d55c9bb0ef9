//! Constants in text: few elements as numbers, many by hash, or by hash and bytes.

use super::cursor::Cursor;
use super::fault::Fault;
use super::form::{Form, INLINE};
use crate::ir::narrow::{bf16_from_text, f16_from_text};
use crate::ir::quote::push_string;
use crate::ir::tensor::with_data;
use crate::ir::{Blob, Constant, DType, Data, Tensor, Type};
use half::{bf16, f16};
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

/// One element as text, and back.
pub(super) trait Element: Sized {
    fn push(&self, out: &mut String);
    fn parse(text: &str) -> Option<Self>;
}

/// Shortest digits that read back; a NaN other than the canonical one with its bits.
macro_rules! float {
    ($t:ty, $bits:ty, $canonical:expr, $widen:expr, $read:expr) => {
        impl Element for $t {
            fn push(&self, out: &mut String) {
                let bits = self.to_bits();
                let _ = if !self.is_nan() {
                    write!(out, "{:?}", $widen(*self))
                } else if bits == $canonical {
                    out.write_str("nan")
                } else {
                    write!(out, "nan({bits:#x})")
                };
            }

            fn parse(text: &str) -> Option<$t> {
                if let Some(hex) = text.strip_prefix("nan(0x").and_then(|t| t.strip_suffix(')')) {
                    let x = <$t>::from_bits(<$bits>::from_str_radix(hex, 16).ok()?);
                    return x.is_nan().then_some(x);
                }
                match text {
                    "nan" => return Some(<$t>::from_bits($canonical)),
                    "inf" => return Some(<$t>::INFINITY),
                    "-inf" => return Some(<$t>::NEG_INFINITY),
                    _ => {}
                }
                // A finite text that overflows is an error, not an infinity.
                let digits = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
                let x: Option<$t> = if digits { $read(text) } else { None };
                x.filter(|x| x.is_finite())
            }
        }
    };
}

float!(f64, u64, 0x7ff8_0000_0000_0000, |x| x, |text: &str| text.parse().ok());
float!(f32, u32, 0x7fc0_0000, |x| x, |text: &str| text.parse().ok());
float!(f16, u16, 0x7e00, f16::to_f32, f16_from_text);
float!(bf16, u16, 0x7fc0, bf16::to_f32, bf16_from_text);

macro_rules! plain {
    ($($t:ty),*) => {$(
        impl Element for $t {
            fn push(&self, out: &mut String) {
                let _ = write!(out, "{self}");
            }

            fn parse(text: &str) -> Option<$t> {
                text.parse().ok()
            }
        }
    )*};
}

plain!(i64, i32, bool);

/// Prints what stands behind `const %x: type = `.
pub(super) fn push_constant(out: &mut String, constant: &Constant, form: Form) {
    match &constant.data {
        Some(t) if t.len() <= INLINE => {
            with_data!(t.data(), v => push_elements(out, v, t.shape().is_empty()))
        }
        data => {
            let _ = write!(out, "#{:016x}", constant.hash);
            if let (Some(t), Form::Full) = (data, form) {
                out.push_str(" hex\"");
                push_hex(out, &t.data().to_le_bytes());
                out.push('"');
            }
        }
    }
}

/// Prints one element.
pub(super) fn push_element<T: Element>(out: &mut String, x: &T) {
    x.push(out);
}

/// Prints a string of bytes: in quotes where it is text, else by its bytes.
pub(super) fn push_bytes(out: &mut String, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => push_string(out, text),
        Err(_) => {
            out.push_str("hex\"");
            push_hex(out, bytes);
            out.push('"');
        }
    }
}

/// Parses what [`push_bytes`] prints.
pub(super) fn bytes(c: &mut Cursor<'_>) -> Result<Vec<u8>, Fault> {
    c.spaces();
    if c.eat_word("hex") { hex(c) } else { Ok(c.string("a string")?.into_owned().into_bytes()) }
}

/// Prints bytes by their hash, and in the full form themselves.
pub(super) fn push_blob(out: &mut String, blob: &Blob, form: Form) {
    let _ = write!(out, "#{:016x}", blob.hash);
    if let (Some(bytes), Form::Full) = (&blob.bytes, form) {
        out.push_str(" hex\"");
        push_hex(out, bytes);
        out.push('"');
    }
}

/// Parses what [`push_blob`] prints.
pub(super) fn blob(c: &mut Cursor<'_>) -> Result<Blob, Fault> {
    c.spaces();
    if !c.eat(b'#') {
        return Err(c.expected("a content hash such as `#3f2a91c0aa11bb22`"));
    }
    let (hash, at) = hash(c)?;
    c.spaces();
    if !c.eat_word("hex") {
        return Ok(Blob { hash, bytes: None });
    }
    let blob = Blob::new(hex(c)?);
    match blob.hash == hash {
        true => Ok(blob),
        false => Err(Fault::new(at, format!("the bytes hash to #{:016x}", blob.hash), "not to this")),
    }
}

fn push_elements<T: Element>(out: &mut String, elements: &[T], scalar: bool) {
    if let (true, [x]) = (scalar, elements) {
        return x.push(out);
    }
    out.push('[');
    for (i, x) in elements.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        x.push(out);
    }
    out.push(']');
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 * bytes.len());
    for b in bytes {
        out.push(char::from(DIGITS[usize::from(b >> 4)]));
        out.push(char::from(DIGITS[usize::from(b & 15)]));
    }
}

/// Parses what [`push_constant`] prints. Memory follows the bytes that are there, never the declared type.
pub(super) fn constant(c: &mut Cursor<'_>, ty: &Type) -> Result<Constant, Fault> {
    if c.eat(b'#') {
        return hashed(c, ty);
    }
    let start = c.pos;
    let data = match ty.dtype {
        DType::F64 => Data::F64(elements(c, ty)?),
        DType::F32 => Data::F32(elements(c, ty)?),
        DType::F16 => Data::F16(elements(c, ty)?),
        DType::BF16 => Data::BF16(elements(c, ty)?),
        DType::I64 => Data::I64(elements(c, ty)?),
        DType::I32 => Data::I32(elements(c, ty)?),
        DType::Bool => Data::Bool(elements(c, ty)?),
    };
    let have = data.len();
    let tensor = Tensor::new(ty.shape.clone(), data).ok_or_else(|| {
        let title = format!("expected {} elements of {ty}", ty.checked_elements().unwrap_or(0));
        Fault::new(start..c.pos, title, format!("found {have}"))
    })?;
    Ok(Constant::new(tensor))
}

/// `#hash`, with or without bytes.
fn hashed(c: &mut Cursor<'_>, ty: &Type) -> Result<Constant, Fault> {
    let (hash, hash_at) = hash(c)?;
    c.spaces();
    if !c.eat_word("hex") {
        return Ok(Constant { ty: ty.clone(), hash, data: None });
    }
    let bytes = hex(c)?;
    let have = bytes.len();
    let data = Data::from_le_bytes(ty.dtype, &bytes).and_then(|d| Tensor::new(ty.shape.clone(), d));
    let Some(data) = data else {
        let want = ty.checked_elements().unwrap_or(0).saturating_mul(ty.dtype.bytes());
        return Err(Fault::new(
            hash_at,
            format!("expected {want} bytes of {ty}"),
            format!("{have} bytes follow"),
        ));
    };
    let constant = Constant::new(data);
    if constant.hash != hash {
        let title = format!("the bytes hash to #{:016x}", constant.hash);
        return Err(Fault::new(hash_at, title, "not to this"));
    }
    Ok(constant)
}

/// The digits behind `#`, and where the hash stands.
fn hash(c: &mut Cursor<'_>) -> Result<(u64, Range<usize>), Fault> {
    let start = c.pos - 1;
    let digits = c.run(|b| b.is_ascii_hexdigit());
    let hash = u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16).ok_or_else(|| {
        Fault::new(start..c.pos, "expected a content hash of 16 hexadecimal digits", "found this")
    })?;
    Ok((hash, start..c.pos))
}

fn hex(c: &mut Cursor<'_>) -> Result<Vec<u8>, Fault> {
    let wanted = "pairs of hexadecimal digits in quotes";
    let start = c.pos;
    if !c.eat(b'"') {
        return Err(c.expected(wanted));
    }
    let digits = c.run(|b| b.is_ascii_hexdigit()).as_bytes();
    let value = |b: u8| char::from(b).to_digit(16).unwrap_or(0) as u8;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Fault::new(start..c.pos, format!("expected {wanted}"), "found an odd number"));
    }
    if !c.eat(b'"') {
        return Err(c.expected(wanted));
    }
    Ok(pairs.iter().map(|[high, low]| value(*high) << 4 | value(*low)).collect())
}

/// Parses what [`push_element`] prints.
pub(super) fn element<T: Element>(c: &mut Cursor<'_>, what: &str) -> Result<T, Fault> {
    c.spaces();
    let start = c.pos;
    let text = c.run(|b| b.is_ascii_alphanumeric() || b"+-.()".contains(&b));
    T::parse(text).ok_or_else(|| {
        c.pos = start;
        c.expected(what)
    })
}

fn elements<T: Element>(c: &mut Cursor<'_>, ty: &Type) -> Result<Arc<Vec<T>>, Fault> {
    let what = format!("an element of type {}", ty.dtype);
    let one = |c: &mut Cursor<'_>| element(c, &what);
    let mut out = Vec::new();
    if ty.rank() == 0 {
        out.push(one(c)?);
    } else if !c.eat(b'[') {
        return Err(c.expected("elements in `[…]`, or a content hash such as `#3f2a91c0aa11bb22`"));
    } else {
        c.list(b']', |c| {
            out.push(one(c)?);
            Ok(())
        })?;
    }
    Ok(Arc::new(out))
}
