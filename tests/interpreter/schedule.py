"""Reads and runs the text of a schedule, by a reading of its own: it shares nothing with the executor but the text.

In: a text as `annulus compile --emit schedule` prints it, and the whole arguments. Out: the whole results. Bytes that nobody wrote are
NaN. Steps and messages run in a random order among those that may come next.
"""

import re

import numpy as np

TYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "bool": np.bool_}


def rows(text):
    """`start:len` or `start:len:step`, as a list of rows."""
    start, length, *step = (int(n) for n in text.split(":"))
    step = step[0] if step else 1
    return [start + i * step for i in range(length)]


def typed(text):
    kind, shape = re.fullmatch(r"(\w+)\[(.*)\]", text).groups()
    return TYPES[kind], tuple(int(n) for n in shape.split(","))


class Head:
    """What a schedule claims to compute."""

    def __init__(self, lines):
        first = re.fullmatch(r'schedule "(.*)" (\S+)( slots \d+)?( mesh .*)? \{', lines[0])
        self.strategy = first.group(2)
        words = lines[1].split()
        (self.dtype, (self.batch, self.hq, self.sq, self.dk)) = typed(words[2])
        (_, (_, self.hkv, self.sk, _)) = typed(words[4])
        (_, (_, _, _, self.dv)) = typed(words[6])
        rest = words[7:]
        self.acc = TYPES[rest[rest.index("acc") + 1]]
        self.sinks = int(rest[rest.index("sinks") + 1]) if "sinks" in rest else None
        self.empty = rest[rest.index("empty") + 1]
        self.lse = rest[-1] == "lse"
        self.scores = [s.strip() for s in lines[2].split(" ", 1)[1].split("|")]
        self.leaves = {}
        at = 3
        while lines[at].startswith("leaf "):
            words = lines[at].split()
            dtype, shape = typed(words[2])
            self.leaves[int(words[1])] = (dtype, shape, words[-1] == "by_query_rows")
            at += 1
        text = " ".join(lines[at:])
        self.q_layout, self.kv_layout = (self.layout(text, name) for name in ("q_layout", "kv_layout"))

    @staticmethod
    def layout(text, name):
        owned = re.search(name + r" +\S+ \d+ \{(.*?)\}", text).group(1)
        ranks = [part.split() for part in owned.split("|")]
        return [[rows(p) for p in rank if p != "-"] for rank in ranks]

    def width(self, port):
        """Bytes of a row of one head and batch entry."""
        size = np.dtype(self.dtype).itemsize
        widths = {"q": self.dk * size, "kv": (self.dk + self.dv) * size, "out": self.dv * size}
        return widths.get(port, np.dtype(self.acc).itemsize)

    def heads(self, port):
        return self.hkv if port == "kv" else self.hq


def live(fill, q, keys, leaf):
    """Which keys a fill keeps for a query row."""
    keys = np.asarray(keys)
    keep = np.ones(len(keys), bool)
    for term in fill.split("&"):
        name, inside = re.fullmatch(r"\s*(\w+)\((.*)\)\s*", term).groups()
        if name == "causal":
            keep &= keys <= q + int(inside)
        elif name == "window":
            left, right, offset = inside.split(",")
            keep &= (keys >= q + int(offset) - int(left)) if left != "-1" else True
            keep &= (keys <= q + int(offset) + int(right)) if right != "-1" else True
        elif name == "segments":
            starts, _, offset = inside.partition(";")
            starts = [int(n) for n in starts.split(",")]
            row = q + int(offset or 0)
            keep &= np.searchsorted(starts, keys, "right") == np.searchsorted(starts, row, "right")
        elif name == "tensor":
            keep &= leaf(int(inside)).astype(bool)
        else:
            raise ValueError(f"this reading knows no mask {term}")
    return keep


def score(head, x, q, keys, leaf):
    """The score program on a row of products; −∞ takes no part."""
    for step in head.scores:
        word, *rest = step.split(" ", 1)
        if word == "factor":
            x = x * (leaf(int(rest[0].split()[1])) if rest[0].startswith("leaf") else float(rest[0]))
        elif word == "softcap":
            c = float(rest[0])
            x = np.where(np.isneginf(x), x, c * np.tanh(x / c))
        elif word == "add":
            x = x + leaf(int(rest[0]))
        elif word == "fill":
            how, mask = rest[0].split(" unless ")
            keep = live(mask, q, keys, leaf)
            if how == "-inf":
                x = np.where(keep, x, -np.inf)
            else:
                kind, number = re.fullmatch(r"(\w+)\((.*)\)", how).groups()
                x = np.where(keep, x, float(number) + (x if kind == "add" else 0))
        else:
            raise ValueError(f"this reading knows no step {step}")
    return x


class Rank:
    def __init__(self, head, number, lines, args):
        self.head, self.number, self.args = head, number, args
        self.arena = np.full(int(lines[0].split()[3]), 0xFF, np.uint8)
        self.slots, self.steps = {}, []
        for line in lines[1:]:
            if line.startswith("slot "):
                _, name, span = line.split()
                self.slots[name] = tuple(int(n) for n in span.split(".."))
            else:
                found = re.match(r"#\d+ +(\S+) +(?:wait (\S+) +)?(?:record (\S+) +)?(.*?)(?: +// .*)?$", line)
                stream, waits, record, op = found.groups()
                self.steps.append((stream, waits.split(",") if waits else [], record, op))
        self.queues = {}
        for i, step in enumerate(self.steps):
            self.queues.setdefault(step[0], []).append(i)
        self.events, self.inside = set(), {}
        self.q_rows = [r for p in head.q_layout[number] for r in p]
        self.kv_rows = [r for p in head.kv_layout[number] for r in p]
        shape = (head.batch, head.hq, len(self.q_rows))
        self.results = {
            "out": np.full((*shape, head.dv), np.nan, head.dtype),
            "lse": np.full((*shape, 1), np.nan, head.acc),
        }

    def view(self, text):
        """The bytes of `slot[a..b]`."""
        name, start, end = re.fullmatch(r"(.*)\[(\d+)\.\.(\d+)\]", text).groups()
        begin = self.slots[name][0]
        assert begin + int(end) <= self.slots[name][1], text
        return self.arena[begin + int(start) : begin + int(end)]

    def part(self, text, port):
        """`rows` and, where they are not all, ` h` and heads."""
        found = re.fullmatch(r"(\S+?)(?: h(\d+)\.\.(\d+))?", text)
        all_heads = range(self.head.heads(port))
        heads = range(int(found.group(2)), int(found.group(3))) if found.group(2) else all_heads
        return rows(found.group(1)), heads

    def own(self, port, rs, heads):
        """A block of what the rank is handed, or of what it gives."""
        held = self.kv_rows if port == "kv" else self.q_rows
        at = [held.index(r) for r in rs]
        if port == "kv":
            return [x[:, list(heads)][:, :, at] for x in self.args[1:3]]
        if port in self.results:
            return self.results[port], list(heads), at
        x = self.args[0] if port == "q" else self.args[int(port[4:])]
        heads = [0] if x.shape[1] == 1 else list(heads)
        return [x[:, heads][:, :, at]]

    def place(self, text):
        """Bytes of a part of a message: a view, or own rows (then a block, not bytes)."""
        if "[" in text:
            return self.view(text)
        port, rest = text.split(" ", 1)
        return (port, *self.part(rest, port))

    def read(self, place):
        if isinstance(place, np.ndarray):
            return place.copy()
        blocks = self.own(*place)
        return np.concatenate([np.ascontiguousarray(b).reshape(-1).view(np.uint8) for b in blocks])

    def write(self, place, data):
        if isinstance(place, np.ndarray):
            place[:] = data
            return
        target, heads, at = self.own(*place)
        shape = (target.shape[0], len(heads), len(at), target.shape[3])
        values = data.view(target.dtype).reshape(shape)
        target[np.ix_(range(shape[0]), heads, at)] = values

    def size(self, place):
        if isinstance(place, np.ndarray):
            return len(place)
        port, rs, heads = place
        return self.head.batch * len(heads) * len(rs) * self.head.width(port)

    def carry(self, text, rs, heads):
        """o, m and l of a view."""
        shape = (self.head.batch, len(heads), len(rs))
        n = shape[0] * shape[1] * shape[2]
        x = self.view(text).view(self.head.acc)
        return [x[: n * self.head.dv].reshape(*shape, self.head.dv), *x[n * self.head.dv :].reshape(2, *shape)]

    def keys(self, text):
        """Pieces of keys: rows, heads, keys, values."""
        out = []
        for piece in text.split(", ") if text != "none" else []:
            part, _, at = piece.partition("@")
            rs, heads = self.part(part, "kv")
            if at:
                b, n = self.head.batch * len(heads) * len(rs), self.head.dk
                x = self.view(at).view(self.head.dtype)
                shape = (self.head.batch, len(heads), len(rs), -1)
                k, v = x[: b * n].reshape(shape), x[b * n :].reshape(*shape[:3], self.head.dv)
            else:
                k, v = self.own("kv", rs, heads)
            out.append((rs, heads, k.astype(np.float64), v.astype(np.float64)))
        return out

    def queries(self, piece):
        """Rows and heads, their queries, and a function of (leaf, batch, head, row) to a row of it; then carry and result."""
        found = re.fullmatch(r"(.*?)(?:@(\S+))?(?: of (\S+))?(?: carry (\S+))?(?: out (\S+))?", piece)
        part, at, partials, carry, out = found.groups()
        rs, heads = self.part(part, "q")
        by_rows = [n for n, leaf in sorted(self.head.leaves.items()) if leaf[2]]
        held = {}
        if at:
            q, *leaves = at.split("+")
            assert len(leaves) == len(by_rows), piece
            shape = (self.head.batch, len(heads), len(rs), self.head.dk)
            x = self.view(q).view(self.head.dtype).reshape(shape)
            for n, view in zip(by_rows, leaves):
                dtype, whole, _ = self.head.leaves[n]
                of = 1 if whole[1] == 1 else len(heads)
                held[n] = self.view(view).view(dtype).reshape(whole[0], of, len(rs), whole[3])
        else:
            x = self.own("q", rs, heads)[0] if not partials else None
            for n in by_rows:
                if all(r in self.q_rows for r in rs):
                    held[n] = self.own(f"leaf{n}", rs, heads)[0]

        def leaf(n, b, h, i):
            if n in held:
                y = held[n]
                return y[b % y.shape[0], h % y.shape[1], i]
            y = self.args[n]
            row = rs[i] if y.shape[2] > 1 else 0
            return y[b % y.shape[0], heads[h] if y.shape[1] > 1 else 0, row]

        return rs, heads, x, leaf, partials.split("+") if partials else [], carry, out

    def fold(self, acc, other):
        """Merges one partial result into another: o, m, l."""
        o, m, l = acc
        top = np.maximum(m, other[1])
        top = np.where(np.isnan(m) | np.isnan(other[1]), np.nan, top)
        with np.errstate(invalid="ignore"):
            a = np.where(m == top, 1.0, np.exp(m - top))
            b = np.where(other[1] == top, 1.0, np.exp(other[1] - top))
        none = np.isneginf(top)
        a, b = np.where(none, 1.0, a), np.where(none, 1.0, b)
        return [o * a[..., None] + other[0] * b[..., None], top, l * a + other[2] * b]

    def compute(self, flags, pieces, keys):
        head = self.head
        for piece in pieces.split(", ") if pieces != "none" else []:
            rs, heads, x, leaf, partials, carry, out = self.queries(piece)
            shape = (head.batch, len(heads), len(rs))
            acc = [np.zeros((*shape, head.dv)), np.full(shape, -np.inf), np.zeros(shape)]
            if "carry_in" in flags:
                acc = [y.astype(np.float64) for y in self.carry(carry, rs, heads)]
            for view in partials:
                acc = self.fold(acc, [y.astype(np.float64) for y in self.carry(view, rs, heads)])
            for k_rows, k_heads, k, v in keys:
                new = [np.zeros_like(acc[0]), np.full(shape, -np.inf), np.zeros(shape)]
                for b, h, i in np.ndindex(*shape):
                    of = heads[h] // (head.hq // head.hkv) - k_heads.start
                    s = k[b, of] @ x[b, h, i].astype(np.float64)

                    def numbers(n, b=b, h=h, i=i, k_rows=k_rows):
                        y = leaf(n, b, h, i)
                        return y[k_rows].astype(np.float64) if len(y) > 1 else y.astype(np.float64)

                    s = score(head, s, rs[i], k_rows, numbers)
                    # A reference that the carry holds as it is.
                    m = np.nan if np.isnan(s).any() else np.float64(head.acc(s.max()))
                    if m == -np.inf:
                        continue
                    p = np.where(np.isneginf(s), 0.0, np.exp(s - m))
                    # A key without weight takes no part, whatever its value is.
                    new[0][b, h, i] = p[p != 0] @ v[b, of][p != 0]
                    new[1][b, h, i], new[2][b, h, i] = m, p.sum()
                acc = self.fold(acc, new)
            if "sinks_here" in flags:
                sink = np.array([[[leaf(head.sinks, b, h, i)[0] for i in range(shape[2])] for h in range(shape[1])] for b in range(shape[0])], np.float64)
                sink = sink.reshape(shape)
                acc = self.fold(acc, [np.zeros_like(acc[0]), sink, np.where(np.isneginf(sink), 0.0, 1.0)])
            if "cast_out" not in flags:
                for target, value in zip(self.carry(carry, rs, heads), acc):
                    target[...] = value.astype(head.acc)
                continue
            o, m, l = acc
            empty = 0.0 if head.empty == "zero" else np.nan
            with np.errstate(divide="ignore", invalid="ignore"):
                o = np.where(l[..., None] == 0, empty, o / l[..., None]).astype(head.dtype)
                lse = np.where(l == 0, -np.inf, m + np.log(l)).astype(head.acc)
            if out:
                for view, value in zip(out.split("+"), (o, lse)):
                    self.view(view)[:] = value.reshape(-1).view(np.uint8)
            else:
                self.write(("out", rs, heads), np.ascontiguousarray(o).reshape(-1).view(np.uint8))
                self.write(("lse", rs, heads), np.ascontiguousarray(lse).reshape(-1).view(np.uint8))

    def run(self, op):
        """A step that is no exchange."""
        word, rest = op.split(" ", 1)
        if word in ("pack", "unpack"):
            for piece in rest.split(", "):
                block, at = piece.split("@")
                port, part = block.split(" ", 1)
                own = (port, *self.part(part, port))
                if word == "pack":
                    self.view(at)[:] = self.read(own)
                else:
                    self.write(own, self.read(self.view(at)))
        elif word == "attn_partial":
            flags, q, k = re.fullmatch(r"(.*?)\bq (.*) k (.*)", rest).groups()
            self.compute(flags.split(), q, self.keys(k))
        elif word == "merge":
            flags, q = re.fullmatch(r"(.*?)\bq (.*)", rest).groups()
            self.compute(flags.split(), q, [])
        else:
            raise ValueError(f"this reading knows no {op}")


EXCHANGE = re.compile(r"(?:sendrecv|all_gather|all_to_all|reduce_scatter) g(\d+)(.*)")


def transfers(text, word):
    """(peer, parts) of each `to` or `from`."""
    parts = re.split(r" (to|from) (\d+) ", text)[1:]
    return [(int(p), places.split("+")) for w, p, places in zip(parts[::3], parts[1::3], parts[2::3]) if w == word]


def run(text, args, rng):
    """Runs a schedule on whole arguments; gives the whole results, `out` and `lse`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    begins = [i for i, line in enumerate(lines) if line.startswith("rank ")]
    head = Head(lines[: begins[0]])
    ranks = []
    for number, (begin, end) in enumerate(zip(begins, [*begins[1:], len(lines)])):
        q, kv = ([r for p in layout[number] for r in p] for layout in (head.q_layout, head.kv_layout))
        own = [args[0][:, :, q], args[1][:, :, kv], args[2][:, :, kv]]
        for n, (_, _, by_rows) in sorted(head.leaves.items()):
            own.append(args[n][:, :, q] if by_rows else args[n])
        ranks.append(Rank(head, number, [line for line in lines[begin:end] if line != "}"], own))
    while True:
        ready = []
        for r in ranks:
            for stream, queue in r.queues.items():
                if queue and stream not in r.inside and all(e in r.events for e in r.steps[queue[0]][1]):
                    ready.append((r, stream))
            for inside in r.inside.values():
                for peer, parts in inside["sends"]:
                    for other in ranks[peer].inside.values():
                        back = [t for t in other["recvs"] if t[0] == r.number]
                        if other["group"] == inside["group"] and back:
                            ready.append((r, inside, (peer, parts), other, back[0]))
        if not ready:
            break
        action = ready[rng.integers(len(ready))]
        r = action[0]
        if len(action) == 2:
            stream = action[1]
            i = r.queues[stream].pop(0)
            found = EXCHANGE.fullmatch(r.steps[i][3])
            if not found:
                r.run(r.steps[i][3])
                r.events.add(r.steps[i][2])
                continue
            sends, recvs = (transfers(found.group(2), word) for word in ("to", "from"))
            for _, parts in recvs:
                for part in parts:
                    place = r.place(part)
                    if isinstance(place, np.ndarray):
                        place[:] = 0xFF
            r.inside[stream] = {"group": found.group(1), "sends": sends, "recvs": recvs, "step": i, "stream": stream}
            continue
        _, inside, send, other, back = action
        peer = ranks[send[0]]
        data = np.concatenate([r.read(r.place(p)) for p in send[1]])
        at = 0
        for part in back[1]:
            place = peer.place(part)
            size = peer.size(place)
            peer.write(place, data[at : at + size])
            at += size
        assert at == len(data), "both ends of a message have its length"
        inside["sends"].remove(send)
        other["recvs"].remove(back)
        for rank, one in ((r, inside), (peer, other)):
            if not one["sends"] and not one["recvs"]:
                del rank.inside[one["stream"]]
                rank.events.add(rank.steps[one["step"]][2])
    assert all(not queue for r in ranks for queue in r.queues.values()) and not any(r.inside for r in ranks), "a deadlock"
    out = np.full((head.batch, head.hq, head.sq, head.dv), np.nan, head.dtype)
    lse = np.full((head.batch, head.hq, head.sq), np.nan, head.acc)
    for r in ranks:
        out[:, :, r.q_rows], lse[:, :, r.q_rows] = r.results["out"], r.results["lse"][..., 0]
    return head, out, lse
