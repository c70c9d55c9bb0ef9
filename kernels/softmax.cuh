// The online softmax on accumulators of matrix products, and the epilogue: for the kernels of 16-bit elements.
//
// A warp holds 16 query rows against N keys. Its lane has rows lane/4 and lane/4 + 8, `half` 0 and 1; s[4i + 2·half + e] is
// the score of key 8i + 2(lane%4) + e, and o[4i + 2·half + e] column 8i + 2(lane%4) + e of the result. As operand of the
// product with the values, weights[i] packs s[2i] and s[2i+1].
//
// In: products q·k, or scores in natural units. Out: weights, and at the end the carry or the result.
// Invariant: o and l share the reference m, which need not be the maximum: it lags while that grows by less than a factor
// 2^8, which saves rescaling o and changes no result, for only the quotient of o and l, and m + ln l, mean anything.

// A score may be near −FLT_MAX (a bias or a fill of finfo.min), which times log2 e overflows: then differences come first.
constexpr bool WIDE = BIAS || FILL != FILL_NEG_INF;

// How far the maximum may lead the reference: 8·ln 2.
constexpr float LAG = 5.5f;

template <int N>
struct Softmax {
    float m[2];  // the reference, in natural units
    float l[2];  // the thread's share of the sum

    __device__ void reset() {
        m[0] = m[1] = -INFINITY;
        l[0] = l[1] = 0.0f;
    }

    // What weights are counted from: m·log2 e, or m if WIDE; 0 for −∞.
    __device__ float from(int half) const {
        float x = WIDE ? m[half] : product(m[half], LOG2E);
        return m[half] == -INFINITY ? 0.0f : x;
    }

    // exp(x − m) of x in natural units.
    __device__ float weight(int half, float x) const {
        float y = exp2_fast(WIDE ? (x - from(half)) * LOG2E : product(x, LOG2E) - from(half));
        y = x == m[half] ? 1.0f : y;
        return x == -INFINITY ? 0.0f : y;
    }

    // Moves the reference; returns by what sums so far shrink.
    __device__ float refer(int half, float to) {
        float before = m[half];
        m[half] = to;
        float shrink = weight(half, before);
        return before == to ? 1.0f : shrink;
    }

    // Moves the reference where scores, in `unit`s, grow past it. o must then be multiplied by `shrink`, which is 1 elsewhere.
    // No branch, here and in `weigh`: maxima, exponentials and packing share the clocks with products that are under way.
    __device__ void peak(const float (&s)[N / 2], float unit, float (&shrink)[2]) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float top[2] = {s[2 * h], s[2 * h + 1]};
#pragma unroll
            for (int i = 4; i < N / 2; i += 4) {
                top[0] = max_or_nan(top[0], s[i + 2 * h]);
                top[1] = max_or_nan(top[1], s[i + 2 * h + 1]);
            }
            float x = max_or_nan(top[0], top[1]);
            x = max_or_nan(x, shuffle_xor(x, 1));
            x = max_or_nan(x, shuffle_xor(x, 2)) * unit;
            shrink[h] = refer(h, x <= m[h] + LAG ? m[h] : x);
        }
    }

    // Turns scores into weights exp(score − m) and adds them to l.
    __device__ void weigh(float (&s)[N / 2], float unit, const float (&shrink)[2]) {
        const float factor = unit * LOG2E;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float base = from(h);
            float sum[2] = {l[h] * shrink[h], 0.0f};
#pragma unroll
            for (int i = 2 * h; i < N / 2; i += 4) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    s[i + e] = exp2_fast(WIDE ? (s[i + e] - base) * LOG2E : s[i + e] * factor - base);
                    sum[e] += s[i + e];
                }
            }
            l[h] = sum[0] + sum[1];
        }
    }
};

template <int N>
__device__ inline void pack_weights(u32 (&weights)[N], const float (&s)[2 * N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) weights[i] = pack_elements(s[2 * i], s[2 * i + 1]);
}

// Multiplies where a reference of the warp moved: most of the time none did.
template <int N>
__device__ inline void shrink_moved(float (&o)[N], const float (&shrink)[2]) {
    if (!any_lane(shrink[0] != 1.0f || shrink[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < N; ++i) o[i] *= shrink[(i >> 1) & 1];
}

// tanh(x) = 1 − 2/(1 + e^2x) of x = unit·s, times the cap.
template <int N>
__device__ inline void cap_scores(float (&s)[N], float scale, float cap) {
    float in = scale / cap * 2.0f * LOG2E;
#pragma unroll
    for (int i = 0; i < N; ++i) s[i] = cap - 2.0f * cap * reciprocal_fast(1.0f + exp2_fast(s[i] * in));
}

// A number of a leaf in f32 (1) or in the type of q (2).
template <int KIND>
__device__ inline float leaf_number(const Leaf& leaf, i64 at) {
    if (KIND == 1) return reinterpret_cast<const float*>(leaf.at)[at];
    return element_to_float(reinterpret_cast<const u16*>(leaf.at)[at]);
}

// Two neighbouring numbers of a carry; where rows are odd in length, they are not aligned.
__device__ inline float2 carry_pair(const float* at, bool first, bool second) {
#if COPY >= 4
    return first ? *reinterpret_cast<const float2*>(at) : make_float2(0.0f, 0.0f);
#else
    return make_float2(first ? at[0] : 0.0f, second ? at[1] : 0.0f);
#endif
}

__device__ inline void put_carry_pair(float* at, float x, float y, bool first, bool second) {
#if COPY >= 4
    if (first) *reinterpret_cast<float2*>(at) = make_float2(x, y);
#else
    if (first) at[0] = x;
    if (second) at[1] = y;
#endif
}

// Writes columns of one row in the element type; lanes of a quad hold neighbouring pairs.
template <int N>
__device__ inline void put_row(u16* out, const float (&o)[N], int half, float factor, bool empty, float empty_row, i32 width,
                               bool mine, int lane) {
#pragma unroll
    for (int i = 0; i < N / 16; ++i) {
        u32 x[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            int at = 16 * i + 4 * j + 2 * half;
            x[j] = empty ? pack_elements(empty_row, empty_row) : pack_elements(o[at] * factor, o[at + 1] * factor);
        }
        if (COPY == 16) {
            // Four lanes hold two columns each of four groups of eight; after the exchange each holds one group.
            transpose_quad(x, lane);
            i32 column = 32 * i + 8 * (lane & 3);
            if (mine && column < width) *reinterpret_cast<uint4*>(out + column) = make_uint4(x[0], x[1], x[2], x[3]);
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                i32 column = 32 * i + 8 * j + 2 * (lane & 3);
                if (COPY >= 4) {
                    if (mine && column < width) *reinterpret_cast<u32*>(out + column) = x[j];
                } else {
                    if (mine && column < width) out[column] = (u16)x[j];
                    if (mine && column + 1 < width) out[column + 1] = (u16)(x[j] >> 16);
                }
            }
        }
    }
}

// Where the carry of a lane's row lies, and how much of it is there.
struct CarryPlace {
    float *o, *m, *l;  // of o the lane's columns 0 and 1
    i32 left;          // columns from there on; 0 for no row

    __device__ CarryPlace(const Params& p, const Work& w, i32 row, int lane) {
        const QPiece& piece = p.q_piece[w.piece];
        const i64 at = ((i64)w.batch * p.q_heads + w.head) * piece.rows.len + row;
        const i64 rows = (i64)p.batch * p.q_heads * piece.rows.len;
        o = piece.carry + at * p.dv + 2 * (lane & 3);
        m = piece.carry + rows * p.dv + at;
        l = m + rows;
        left = row < piece.rows.len ? p.dv - 2 * (lane & 3) : 0;
    }
};

// The carry of a lane's rows, read in one go; all of HALVES rows at once where there are registers for it.
template <int HALVES>
struct Carry {
#if CARRY_IN
    float m[HALVES], l[HALVES];
    float2 o[HALVES][DV / 8];

    __device__ void read(const Params& p, const Work& w, int half, i32 row, int lane) {
        const CarryPlace at(p, w, row, lane);
        const bool mine = row < p.q_piece[w.piece].rows.len;
        m[half] = mine ? *at.m : -INFINITY;
        l[half] = mine ? *at.l : 0.0f;
#pragma unroll
        for (int i = 0; i < DV / 8; ++i) o[half][i] = carry_pair(at.o + 8 * i, 8 * i < at.left, 8 * i + 1 < at.left);
    }

    // All rows of the lane, the first of which is `row`; nothing where `finish` reads them.
    __device__ void read_early(const Params& p, const Work& w, i32 row, int lane) {
        if (HALVES == 2)
            for (int h = 0; h < 2; ++h) read(p, w, h, row + 8 * h, lane);
    }
#else
    __device__ void read_early(const Params&, const Work&, i32, int) {}
#endif
};

// After the last block: joins the carry and the sinks, and writes either the carry or the result. `row` is the lane's first.
template <int N, int HALVES>
__device__ inline void finish(const Params& p, const Work& w, float (&o)[DV / 2], Softmax<N>& soft, Carry<HALVES>& carry,
                              i32 first_row, int lane) {
    const QPiece& piece = p.q_piece[w.piece];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float l = soft.l[h];
        l += shuffle_xor(l, 1);
        l += shuffle_xor(l, 2);
        i32 row = first_row + 8 * h;
        bool mine = row < piece.rows.len;
#if CARRY_IN
        {
            const int c = HALVES == 2 ? h : 0;
            if (HALVES == 1) carry.read(p, w, 0, row, lane);
            float here = soft.refer(h, max_or_nan(soft.m[h], carry.m[c]));
            float there = carry.m[c] == soft.m[h] ? 1.0f : soft.weight(h, carry.m[c]);
            l = l * here + carry.l[c] * there;
#pragma unroll
            for (int i = 0; i < DV / 8; ++i) {
                o[4 * i + 2 * h] = o[4 * i + 2 * h] * here + carry.o[c][i].x * there;
                o[4 * i + 2 * h + 1] = o[4 * i + 2 * h + 1] * here + carry.o[c][i].y * there;
            }
            // All four lanes of the row have read m and l before one of them writes.
            warp_sync();
        }
#endif
#if SINKS
        {
            float sink = mine ? leaf_number<SINKS>(p.sinks, leaf_row(p.sinks, w, piece.rows, row)) : -INFINITY;
            float here = soft.refer(h, max_or_nan(soft.m[h], sink));
            l = l * here + soft.weight(h, sink);
#pragma unroll
            for (int i = 0; i < DV / 8; ++i) {
                o[4 * i + 2 * h] *= here;
                o[4 * i + 2 * h + 1] *= here;
            }
        }
#endif
#if CAST_OUT
        bool empty = l == 0.0f;
        i64 out_row = result_row(piece, w.batch, w.head, row);
        put_row(reinterpret_cast<u16*>(piece.out) + out_row * p.dv, o, h, reciprocal_fast(l), empty, p.empty_row, p.dv, mine, lane);
        if (piece.lse && mine && (lane & 3) == 0) piece.lse[out_row] = empty ? -INFINITY : soft.m[h] + log2_fast(l) * LN2;
#else
        const CarryPlace to(p, w, row, lane);
#pragma unroll
        for (int i = 0; i < DV / 8; ++i)
            put_carry_pair(to.o + 8 * i, o[4 * i + 2 * h], o[4 * i + 2 * h + 1], 8 * i < to.left, 8 * i + 1 < to.left);
        if (mine && (lane & 3) == 0) {
            *to.m = soft.m[h];
            *to.l = l;
        }
#endif
    }
}
