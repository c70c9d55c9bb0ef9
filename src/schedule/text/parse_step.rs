//! Parses what a step does.

use super::cursor::{Parsed, Parser};
use crate::mask::Tile;
use crate::schedule::{
    AttentionFacts, Block, ExchangeKind, Heads, KvPiece, Merged, Packed, Place, Port, QPiece, StepOp,
    Transfer, View,
};
use std::collections::HashMap;

/// What names mean in the program of a rank.
pub(super) struct Names<'a> {
    pub(super) facts: &'a AttentionFacts,
    pub(super) slots: &'a HashMap<String, usize>,
}

/// The words of `carry_in`, `sinks_here` and `cast_out`.
type Flags = [bool; 3];

impl Parser<'_> {
    pub(super) fn op(&mut self, names: &Names<'_>) -> Parsed<StepOp> {
        if self.eat_word("pack") {
            return Ok(StepOp::Pack { pieces: self.packed(names)? });
        }
        if self.eat_word("unpack") {
            return Ok(StepOp::Unpack { pieces: self.packed(names)? });
        }
        if self.eat_word("attn_partial") {
            return self.attn_partial(names);
        }
        if self.eat_word("merge") {
            return self.merge(names);
        }
        let kinds = ExchangeKind::ALL.map(|k| format!("`{}`", k.name())).join(", ");
        let kind = self.named(&format!("`pack`, `unpack`, `attn_partial`, `merge`, {kinds}"), |w| {
            ExchangeKind::ALL.into_iter().find(|k| k.name() == w)
        })?;
        if !self.eat("g") {
            return self.want("a group like g1");
        }
        let group = self.number()?;
        let sms = if self.eat_word("sms") { Some(self.number()?) } else { None };
        let (mut sends, mut recvs) = (Vec::new(), Vec::new());
        while self.eat_word("to") {
            sends.push(self.transfer(names)?);
        }
        while self.eat_word("from") {
            recvs.push(self.transfer(names)?);
        }
        Ok(StepOp::Exchange { group, kind, sms, sends, recvs })
    }

    fn flags(&mut self) -> Flags {
        ["carry_in", "sinks_here", "cast_out"].map(|word| self.eat_word(word))
    }

    fn attn_partial(&mut self, names: &Names<'_>) -> Parsed<StepOp> {
        let tile = self.named("`full` or `partial`", |w| {
            [Tile::Full, Tile::Partial, Tile::Skip].into_iter().find(|t| t.name() == w)
        })?;
        let [carry_in, sinks_here, cast_out] = self.flags();
        self.word("q")?;
        let q = self.several(|p| {
            let (rows, heads) = p.part(Port::Q, names)?;
            let at = if p.eat("@") { p.views(names)? } else { vec![] };
            let (carry, out) = p.ends(names)?;
            Ok(QPiece { rows, heads, at, carry, out })
        })?;
        self.word("k")?;
        let kv = self.several(|p| {
            let (rows, heads) = p.part(Port::Kv, names)?;
            let at = if p.eat("@") { Some(p.view(names)?) } else { None };
            Ok(KvPiece { rows, heads, at })
        })?;
        Ok(StepOp::AttnPartial { q, kv, tile, carry_in, sinks_here, cast_out })
    }

    fn merge(&mut self, names: &Names<'_>) -> Parsed<StepOp> {
        let [carry_in, sinks_here, cast_out] = self.flags();
        self.word("q")?;
        let q = self.several(|p| {
            let (rows, heads) = p.part(Port::Q, names)?;
            p.word("of")?;
            let partials = if p.eat_word("none") { vec![] } else { p.views(names)? };
            let (carry, out) = p.ends(names)?;
            Ok(Merged { rows, heads, partials, carry, out })
        })?;
        Ok(StepOp::Merge { q, carry_in, sinks_here, cast_out })
    }

    /// Where carries and results lie.
    fn ends(&mut self, names: &Names<'_>) -> Parsed<(Option<View>, Vec<View>)> {
        let carry = if self.eat_word("carry") { Some(self.view(names)?) } else { None };
        let out = if self.eat_word("out") { self.views(names)? } else { vec![] };
        Ok((carry, out))
    }

    fn packed(&mut self, names: &Names<'_>) -> Parsed<Vec<Packed>> {
        self.several(|p| {
            let Some(block) = p.block(names)? else {
                return p.want("`q`, `kv`, `leaf` and its number, `out` or `lse`");
            };
            p.sign("@")?;
            Ok(Packed { block, at: p.view(names)? })
        })
    }

    fn transfer(&mut self, names: &Names<'_>) -> Parsed<Transfer> {
        let peer = self.number()?;
        let mut parts = Vec::new();
        if self.eat_word("none") {
            return Ok(Transfer { peer, parts });
        }
        loop {
            parts.push(match self.block(names)? {
                Some(block) => Place::Own(block),
                None => Place::Arena(self.view(names)?),
            });
            if !self.eat("+") {
                return Ok(Transfer { peer, parts });
            }
        }
    }

    /// A block of a tensor, if one comes: a slot may have the same name, and then brackets follow.
    fn block(&mut self, names: &Names<'_>) -> Parsed<Option<Block>> {
        let word = self.peek_word();
        let port = match word {
            "q" => Port::Q,
            "kv" => Port::Kv,
            "out" => Port::Out,
            "lse" => Port::Lse,
            _ => match word.strip_prefix("leaf").and_then(|n| n.parse().ok()) {
                Some(n) => Port::Leaf(n),
                None => return Ok(None),
            },
        };
        if self.rest()[word.len()..].starts_with('[') {
            return Ok(None);
        }
        self.at += word.len();
        let (rows, heads) = self.part(port, names)?;
        Ok(Some(Block { port, rows, heads }))
    }

    /// Rows, and heads where they are not all.
    fn part(&mut self, port: Port, names: &Names<'_>) -> Parsed<(crate::layout::Progression, Heads)> {
        let rows = self.progression()?;
        self.blanks();
        let some = self.rest().strip_prefix('h').is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
        if !some {
            return Ok((rows, names.facts.heads_of(port)));
        }
        self.at += 1;
        let (start, len) = self.range()?;
        Ok((rows, Heads { start, len }))
    }

    /// `none`, or one or more with commas between them.
    fn several<T>(&mut self, mut one: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut all = Vec::new();
        if self.eat_word("none") {
            return Ok(all);
        }
        loop {
            all.push(one(self)?);
            if !self.eat(",") {
                return Ok(all);
            }
        }
    }

    fn views(&mut self, names: &Names<'_>) -> Parsed<Vec<View>> {
        let mut views = vec![self.view(names)?];
        while self.eat("+") {
            views.push(self.view(names)?);
        }
        Ok(views)
    }

    fn view(&mut self, names: &Names<'_>) -> Parsed<View> {
        let slot = if self.eat("%") {
            self.number()?
        } else {
            self.blanks();
            let begin = self.at;
            let name = self.name("a slot")?;
            match names.slots.get(&name) {
                Some(&slot) => slot,
                None => return self.fault(begin, "this rank has no slot of that name"),
            }
        };
        self.sign("[")?;
        let (start, bytes) = self.range()?;
        self.sign("]")?;
        Ok(View { slot, start, bytes })
    }
}
