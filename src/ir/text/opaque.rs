//! What an opaque operator states, in text: printed, and read back to the same bits.

use super::attributes::Attributes;
use super::cursor::Cursor;
use super::fault::Fault;
use super::form::Form;
use super::literal::{self, push_blob, push_bytes, push_constant, push_element};
use crate::ir::quote::push_string;
use crate::ir::{Attribute, Constant, MessageKind, Opaque, RowAxes, Type};
use std::fmt::Write;

/// Prints the attributes as [`Attributes::opaque`] reads them, braces left out.
pub(super) fn push_opaque(out: &mut String, o: &Opaque, form: Form) {
    if !o.domain.is_empty() {
        out.push_str("domain=");
        push_string(out, &o.domain);
        out.push_str(", ");
    }
    out.push_str("op=");
    push_string(out, &o.name);
    if !o.overload.is_empty() {
        out.push_str(", overload=");
        push_string(out, &o.overload);
    }
    let _ = write!(out, ", version={}", o.version);
    if !o.imports.is_empty() {
        out.push_str(", imports=");
        push_items(out, &o.imports, |out, (domain, version)| {
            push_string(out, domain);
            let _ = write!(out, ":{version}");
        });
    }
    for (key, places) in [("left_out", &o.left_out), ("unwanted", &o.unwanted)] {
        if !places.is_empty() {
            let _ = write!(out, ", {key}=");
            push_items(out, places, |out, place| {
                let _ = write!(out, "{place}");
            });
        }
    }
    if !o.captured.is_empty() {
        out.push_str(", captured=");
        push_items(out, &o.captured, |out, name| push_string(out, name));
    }
    if let Some(rows) = &o.rowwise {
        out.push_str(", rows_in=");
        push_items(out, &rows.operands, |out, axis| match axis {
            Some(axis) => {
                let _ = write!(out, "{axis}");
            }
            None => out.push('-'),
        });
        let _ = write!(out, ", rows_out={}", rows.result);
    }
    if !o.attributes.is_empty() {
        out.push_str(", attributes=");
        push_items(out, &o.attributes, |out, (name, value)| {
            push_string(out, name);
            out.push('=');
            push_attribute(out, value, form);
        });
    }
    if !o.why.is_empty() {
        out.push_str(", why=");
        push_string(out, &o.why);
    }
}

fn push_items<T>(out: &mut String, items: &[T], one: impl Fn(&mut String, &T)) {
    out.push('[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        one(out, item);
    }
    out.push(']');
}

fn push_attribute(out: &mut String, value: &Attribute, form: Form) {
    let tensor = |out: &mut String, t: &Constant| {
        let _ = write!(out, "{} = ", t.ty);
        push_constant(out, t, form);
    };
    match value {
        Attribute::Int(x) => {
            let _ = write!(out, "int {x}");
        }
        Attribute::Float(x) => {
            out.push_str("float ");
            push_element(out, x);
        }
        Attribute::String(s) => {
            out.push_str("string ");
            push_bytes(out, s);
        }
        Attribute::Tensor(t) => {
            out.push_str("tensor ");
            tensor(out, t);
        }
        Attribute::Ints(all) => {
            out.push_str("ints ");
            push_items(out, all, push_element);
        }
        Attribute::Floats(all) => {
            out.push_str("floats ");
            push_items(out, all, push_element);
        }
        Attribute::Strings(all) => {
            out.push_str("strings ");
            push_items(out, all, |out, s| push_bytes(out, s));
        }
        Attribute::Tensors(all) => {
            out.push_str("tensors ");
            push_items(out, all, tensor);
        }
        Attribute::Encoded(kind, messages) => {
            out.push_str(kind.name());
            out.push(' ');
            match (kind.is_list(), messages.as_slice()) {
                (false, [one]) => push_blob(out, one, form),
                _ => push_items(out, messages, |out, b| push_blob(out, b, form)),
            }
        }
    }
}

impl<'a> Attributes<'a> {
    /// The operator, whose results have these types.
    pub(super) fn opaque(&mut self, types: &[Type]) -> Result<Opaque, Fault> {
        let string = |what: &'static str| move |c: &mut Cursor<'a>| Ok(c.string(what)?.into_owned());
        let naturals = |c: &mut Cursor<'a>| c.naturals("a list such as `[0,1]`");
        let mut o = Opaque::new(
            self.optional("domain", string("a domain"))?.unwrap_or_default(),
            self.required("op", string("the name of an operator"))?,
            types.iter().cloned(),
        );
        o.overload = self.optional("overload", string("the name of an overload"))?.unwrap_or_default();
        o.version = self.required("version", |c| c.number("a whole number"))?;
        o.imports = self.optional("imports", imports)?.unwrap_or_default();
        o.left_out = self.optional("left_out", naturals)?.unwrap_or_default();
        o.unwanted = self.optional("unwanted", naturals)?.unwrap_or_default();
        let names = |c: &mut Cursor<'a>| list(c, "names such as `[\"x\"]`", string("a name"));
        o.captured = self.optional("captured", names)?.unwrap_or_default();
        let axes = self.optional("rows_in", |c| list(c, "axes such as `[0,-,1]`", axis))?;
        let result = self.optional("rows_out", Cursor::natural)?;
        o.rowwise = match (axes, result) {
            (Some(operands), Some(result)) => Some(RowAxes { operands, result }),
            (None, None) => None,
            (Some(_), None) => return Err(self.missing("the attribute `rows_out` beside `rows_in`")),
            (None, Some(_)) => return Err(self.missing("the attribute `rows_in` beside `rows_out`")),
        };
        o.attributes = self.optional("attributes", attributes)?.unwrap_or_default();
        o.why = self.optional("why", string("a reason"))?.unwrap_or_default();
        Ok(o)
    }
}

/// `[item, item]`.
fn list<'a, T>(
    c: &mut Cursor<'a>,
    what: &str,
    mut item: impl FnMut(&mut Cursor<'a>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    c.expect(b'[', what)?;
    let mut out = Vec::new();
    c.list(b']', |c| {
        out.push(item(c)?);
        Ok(())
    })?;
    Ok(out)
}

fn imports(c: &mut Cursor<'_>) -> Result<Vec<(String, i64)>, Fault> {
    list(c, "domains such as `[\"com.microsoft\":1]`", |c| {
        let domain = c.string("a domain")?.into_owned();
        c.expect(b':', "`:` and a version")?;
        Ok((domain, c.number("a whole number")?))
    })
}

fn axis(c: &mut Cursor<'_>) -> Result<Option<usize>, Fault> {
    if c.eat(b'-') { Ok(None) } else { c.natural().map(Some) }
}

fn attributes(c: &mut Cursor<'_>) -> Result<Vec<(String, Attribute)>, Fault> {
    list(c, "attributes such as `[\"axis\"=int 1]`", |c| {
        let name = c.string("the name of an attribute")?.into_owned();
        c.expect(b'=', "`=` and a value such as `int 1`")?;
        Ok((name, attribute(c)?))
    })
}

fn attribute(c: &mut Cursor<'_>) -> Result<Attribute, Fault> {
    c.spaces();
    let start = c.pos;
    let word = c.word();
    c.spaces();
    let value = match word {
        "int" => Attribute::Int(literal::element(c, "a whole number of 64 bits")?),
        "float" => Attribute::Float(literal::element(c, "a number of type f32")?),
        "string" => Attribute::String(literal::bytes(c)?),
        "tensor" => Attribute::Tensor(tensor(c)?),
        "ints" => {
            Attribute::Ints(list(c, "whole numbers in `[…]`", |c| literal::element(c, "a whole number"))?)
        }
        "floats" => Attribute::Floats(list(c, "numbers in `[…]`", |c| literal::element(c, "a number"))?),
        "strings" => Attribute::Strings(list(c, "strings in `[…]`", literal::bytes)?),
        "tensors" => Attribute::Tensors(list(c, "tensors in `[…]`", tensor)?),
        _ => match MessageKind::ALL.into_iter().find(|k| k.name() == word) {
            Some(kind) if kind.is_list() => {
                Attribute::Encoded(kind, list(c, "messages in `[…]`", literal::blob)?)
            }
            Some(kind) => Attribute::Encoded(kind, vec![literal::blob(c)?]),
            None => {
                c.pos = start;
                let kinds = MessageKind::ALL.map(MessageKind::name).join(", ");
                return Err(c.expected(&format!(
                    "a value: one of int, float, string, tensor, ints, floats, strings, tensors, {kinds}, and what it is"
                )));
            }
        },
    };
    Ok(value)
}

fn tensor(c: &mut Cursor<'_>) -> Result<Constant, Fault> {
    let ty = c.ty()?;
    c.expect(b'=', "`=` and the tensor's elements or hash")?;
    c.spaces();
    literal::constant(c, &ty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Blob, DType, Form, Graph, Op, Tensor, parse, print, verify};
    use proptest::prelude::*;

    fn names() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z]{1,6}",
            any::<String>().prop_map(|s| format!("_{s}")),
            Just("\"} , = ]\n\u{202e}//\0\\".to_owned())
        ]
    }

    fn tensors() -> impl Strategy<Value = Constant> {
        let f32s = prop::collection::vec(any::<u32>(), 0..12).prop_map(|bits| {
            let n = bits.len();
            Tensor::from_vec([n], bits.into_iter().map(f32::from_bits).collect::<Vec<f32>>()).unwrap()
        });
        let i64s = prop::collection::vec(any::<i64>(), 0..12).prop_map(|x| Tensor::vector_i64(&x));
        prop_oneof![
            f32s.prop_map(Constant::new),
            i64s.prop_map(Constant::new),
            any::<u64>().prop_map(|hash| Constant { ty: Type::new(DType::F16, [9, 9]), hash, data: None }),
        ]
    }

    fn values() -> impl Strategy<Value = Attribute> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..20);
        let strings = || prop_oneof![bytes(), names().prop_map(String::into_bytes)];
        let kinds = prop::sample::select(MessageKind::ALL.to_vec());
        let messages = (kinds, prop::collection::vec(bytes(), 1..4)).prop_map(|(kind, messages)| {
            let most = if kind.is_list() { messages.len() } else { 1 };
            Attribute::Encoded(kind, messages.into_iter().take(most).map(Blob::new).collect())
        });
        let floats = || any::<u32>().prop_map(f32::from_bits);
        prop_oneof![
            any::<i64>().prop_map(Attribute::Int),
            floats().prop_map(Attribute::Float),
            Just(Attribute::Float(-0.0)),
            Just(Attribute::Encoded(MessageKind::Graphs, vec![])),
            strings().prop_map(Attribute::String),
            tensors().prop_map(Attribute::Tensor),
            prop::collection::vec(any::<i64>(), 0..300).prop_map(Attribute::Ints),
            prop::collection::vec(floats(), 0..300).prop_map(Attribute::Floats),
            prop::collection::vec(strings(), 0..5).prop_map(Attribute::Strings),
            prop::collection::vec(tensors(), 0..4).prop_map(Attribute::Tensors),
            messages,
        ]
    }

    fn operators() -> impl Strategy<Value = Opaque> {
        let lists = (
            prop::collection::btree_map(names(), any::<i64>(), 0..4),
            prop::collection::btree_set(names(), 0..3),
            prop::collection::btree_map(names(), values(), 0..6),
            prop::collection::btree_set(0usize..2, 0..3),
        );
        let axes = prop::option::of((prop::bool::ANY, prop::bool::ANY));
        (names(), names(), names(), any::<i64>(), lists, axes, names()).prop_map(
            |(domain, name, overload, version, (imports, captured, attributes, empty), axes, why)| {
                let result = Type::new(DType::F32, [3, 2, 3]);
                let mut o = Opaque::new(domain, name, [result.clone(), result]);
                o.imports = imports.into_iter().filter(|(domain, _)| *domain != o.domain).collect();
                (o.overload, o.version, o.why) = (overload, version, why);
                // Three operands that are given, and those that are captured.
                o.left_out = empty.iter().copied().collect();
                o.unwanted = empty.into_iter().collect();
                o.captured = captured.into_iter().collect();
                o.attributes = attributes.into_iter().collect();
                o.rowwise = axes.map(|(first, last)| RowAxes {
                    operands: vec![first.then_some(0), Some(2), last.then_some(2)],
                    result: if first { 2 } else { 0 },
                });
                o
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_operator_prints_and_parses_back_to_the_same_bits(o in operators()) {
            let mut g = Graph::new("g");
            let operands: Vec<_> = (0..3 + o.captured.len())
                .map(|i| g.input(&format!("x{i}"), Type::new(DType::F32, [3, 2, 3])))
                .collect();
            let y = g.add1(Op::Opaque(o.clone().into()), &operands, "y", "node").unwrap();
            g.output("y", y);
            prop_assert_eq!(verify(&g), Ok(()));
            for form in [Form::People, Form::Full] {
                let text = print(&g, form);
                let back = match parse(&text) {
                    Ok(back) => back,
                    Err(e) => return Err(TestCaseError::fail(format!("{e}\n{text}"))),
                };
                prop_assert!(back == g, "{}", text);
                prop_assert_eq!(print(&back, form), text.as_str());
                prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
                if form == Form::Full {
                    // Equality looks at hashes: what was printed in full has its bytes.
                    let shown = |g: &Graph| format!("{:?}", g.ops().into_iter().map(|id| g.op(id)).next_back());
                    prop_assert_eq!(shown(&back), shown(&g));
                }
            }
        }
    }
}
