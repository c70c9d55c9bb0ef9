// The steps between the products q·k and the softmax, in kernels of score programs beyond the usual order (a scale, a softcap, a
// bias, a mask). In: products. Out: scores in natural units, of which −∞ takes no part.
//
// Invariant: every score goes through the steps in their order, each of which rounds as f32 does. A score of −∞ stays what it is
// under factors and addends; a softcap makes −cap of it, and a fill that replaces scores revives it.
//
// Follows contract.cuh and step_params.cuh. Macros, beside those of the kernel:
//
//   STEPS            how many, at most MAX_STEPS
//   STEP_KINDS       a STEP_… for each
//   STEP_POSITIONS   for each, 1 if it is a fill that positions decide too: Params::band
//   STEP_MASKS       for each, how many boolean leaves a fill reads
//   BIAS             1: each score must be looked at, wherever it lies
//   MASK, FILL, SOFTCAP    0, FILL_NEG_INF, 0: the steps have their part
//
// Params::scale is 1. POSITIONS and the window of UsualParams are those of the fills of −∞ that no step undoes.

__device__ constexpr int step_kind(int n) {
    constexpr int kinds[] = {STEP_KINDS};
    return kinds[n];
}

__device__ constexpr bool step_positions(int n) {
    constexpr int positions[] = {STEP_POSITIONS};
    return positions[n] != 0;
}

__device__ constexpr int step_masks(int n) {
    constexpr int masks[] = {STEP_MASKS};
    return masks[n];
}

__device__ constexpr bool reads_factor(int kind) { return kind == STEP_FACTOR_F32 || kind == STEP_FACTOR_ELEMENT; }

__device__ constexpr bool reads_number(int kind) {
    return reads_factor(kind) || kind == STEP_ADD_F32 || kind == STEP_ADD_ELEMENT;
}

// Which of Params::leaf is the first that the step reads.
__device__ constexpr int step_leaf(int n) {
    return n == 0 ? 0 : step_leaf(n - 1) + (reads_number(step_kind(n - 1)) ? 1 : step_masks(n - 1));
}

// ---- steps that ask nothing of the pair of rows ------------------------------------------------------------------------

template <int KIND>
__device__ inline float changed(float x, float number, float inverse) {
    if constexpr (KIND == STEP_FACTOR) return x == -INFINITY ? x : x * number;
    if constexpr (KIND == STEP_SOFTCAP) return number * tanhf(x * inverse);
    if constexpr (KIND == STEP_ROUND_F16) return round_f16(x);
    if constexpr (KIND == STEP_ROUND_BF16) return round_bf16(x);
    return x;
}

// ---- steps that do -----------------------------------------------------------------------------------------------------

// A query row, and the keys of a piece from the first on that a thread has scores of.
struct Pairs {
    const Work& work;
    const Rows& rows;  // of the query's piece
    i32 row;           // in it
    const Rows& keys;
    i32 first;  // in their piece
};

template <int KIND>
__device__ inline float step_number(const Leaf& leaf, i64 at) {
    if (KIND == STEP_FACTOR_F32 || KIND == STEP_ADD_F32) return reinterpret_cast<const float*>(leaf.at)[at];
    return element_to_float(reinterpret_cast<const u16*>(leaf.at)[at]);
}

// The keys of the piece that the band keeps for the row.
__device__ inline Span kept_by(const Band& band, const Pairs& pairs) {
    const i32 row = global_row(pairs.rows, pairs.row);
    i32 low = row + band.low, high = row + band.high;
    if (band.first_key) {
        const i64 at = pairs.work.batch * band.entry_rows + row;
        low = low > band.first_key[at] ? low : band.first_key[at];
        high = high < band.end_key[at] ? high : band.end_key[at];
    }
    return {rows_below(pairs.keys, low), rows_below(pairs.keys, high)};
}

// Where the thread's first key lies in a leaf, and how far apart there keys are that are neighbours in the piece.
struct LeafKeys {
    i64 at, stride;

    __device__ LeafKeys(const Leaf& leaf, const Pairs& pairs)
        : at(leaf_row(leaf, pairs.work, pairs.rows, pairs.row) + global_row(pairs.keys, pairs.first) * leaf.key),
          stride(forgotten(leaf.key * pairs.keys.step)) {}
};

// Step N on COUNT scores of a query row: score(i) is one, and ahead(i) how far its key is behind the first.
//
// A tensor is always there. That the kernel asks keeps its loads behind a branch: they run side by side, those of all tensors at once
// would take more registers than there are.
template <int N, int COUNT, class Score, class Ahead>
__device__ inline void run_step(const Params& p, const Pairs& pairs, Score score, Ahead ahead) {
    constexpr int KIND = step_kind(N);
    const float number = p.number[N];
    const i32 left = pairs.keys.len - pairs.first;  // keys that there are
    if constexpr (reads_number(KIND)) {
        const Leaf& leaf = p.leaf[step_leaf(N)];
        if (!leaf.at) return;
        const LeafKeys keys(leaf, pairs);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const float x = score(i), y = ahead(i) < left ? step_number<KIND>(leaf, keys.at + ahead(i) * keys.stride) : 0.0f;
            if constexpr (reads_factor(KIND))
                score(i) = x == -INFINITY ? x : x * y;
            else
                score(i) = x == -INFINITY || y == -INFINITY ? -INFINITY : x + y;
        }
    } else if constexpr (KIND == STEP_FILL_NEG_INF || KIND == STEP_FILL_REPLACE || KIND == STEP_FILL_ADD) {
        u32 hidden = 0;  // a bit a score: what is added to it is added once, however many conditions it fails
        static_assert(COUNT <= 32, "scores of a row");
        const auto hide = [&](int i) {
            if constexpr (KIND == STEP_FILL_ADD)
                hidden |= 1u << i;
            else
                score(i) = KIND == STEP_FILL_NEG_INF ? -INFINITY : number;
        };
        if constexpr (step_positions(N)) {
            const Span span = kept_by(p.band[N], pairs);
#pragma unroll
            for (int i = 0; i < COUNT; ++i)
                if (pairs.first + ahead(i) < span.begin || pairs.first + ahead(i) >= span.end) hide(i);
        }
#pragma unroll
        for (int m = 0; m < step_masks(N); ++m) {
            const Leaf& leaf = p.leaf[step_leaf(N) + m];
            if (!leaf.at) continue;
            const LeafKeys keys(leaf, pairs);
            const u8* mask = reinterpret_cast<const u8*>(leaf.at) + keys.at;
#pragma unroll
            for (int i = 0; i < COUNT; ++i)
                if (ahead(i) < left && !mask[ahead(i) * keys.stride]) hide(i);
        }
        if constexpr (KIND == STEP_FILL_ADD) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i)
                if (hidden >> i & 1) score(i) += number;
        }
    } else {
        const float inverse = KIND == STEP_SOFTCAP ? 1.0f / number : 0.0f;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) score(i) = changed<KIND>(score(i), number, inverse);
    }
}

template <int N, int COUNT, class Score, class Ahead>
__device__ inline void run_steps(const Params& p, const Pairs& pairs, Score score, Ahead ahead) {
    if constexpr (N < STEPS) {
        run_step<N, COUNT>(p, pairs, score, ahead);
        run_steps<N + 1, COUNT>(p, pairs, score, ahead);
    }
}
