// What every attention kernel is handed, and the arithmetic of rows that all of them share.
//
// A launch is one step `attn_partial` of a schedule: query pieces against key pieces, each a progression of global rows
// {start, len, step}. Per query row, whatever positions decide (causal, window, documents, the end of a piece) is one
// interval of keys, and along ascending rows both of its ends ascend: so the first and the last row of a tile tell which
// blocks of keys it needs, and which of those need no mask.

constexpr int MAX_PIECES = 8;
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

// Global rows start, start + step, …; `len` of them. Row numbers stay below 2^30; offsets of elements have 64 bits.
struct Rows {
    i32 start, step, len;
    i32 local;  // the first row's place in the tensor that holds it
};

// Query rows and where they, their carry and their results lie. Row r of head h of batch entry b is row (b·q_heads + h)·q_rows + r of
// q, and row (b·out_heads + h)·out_rows + r of out and lse. `rows.local` counts in leaves with local rows.
struct QPiece {
    Rows rows;
    float* carry;   // o (B, Hq, len, DV), then m (B, Hq, len), then l (B, Hq, len); null if no step reads or writes it
    const void* q;  // rows of DK
    void* out;      // rows of DV
    float* lse;     // natural logarithm; null if nobody wants it
    i32 q_rows, q_heads, out_rows, out_heads;
};

// Key rows and where they lie: row r of key head h of batch entry b is row (b·batch_heads + h)·head_rows + r.
struct KvPiece {
    Rows rows;
    const void* k;  // rows of DK
    const void* v;  // rows of DV
    i32 head_rows, batch_heads;
};

// A tensor that broadcasts to (B, Hq, query row, key row): strides in elements, 0 along what is broadcast.
struct Leaf {
    const void* at;
    i64 batch, head, row, key;
    i32 local_rows;  // whether its rows are counted as q's are, else globally
};

struct Params {
    u32* counter;   // two words, zero before the first launch and after every one
    u8* odd;        // a byte for every 16 query rows of a piece, see `sixteen`; null for none
    QPiece q_piece[MAX_PIECES];
    KvPiece kv_piece[MAX_PIECES];
    i32 q_pieces, kv_pieces;
    i32 batch, q_heads, kv_heads;
    i32 group, head_shift;  // query head h reads key head (h + head_shift) / group
    i32 dk, dv;
    i32 tiles;         // blocks of query rows times heads
    i32 head_group;    // heads that are worked on side by side, so that their keys and values fit the L2 cache
    float scale;       // on q·k
    float softcap;     // cap of cap·tanh(score/cap)
    float fill;        // what a masked score becomes, or what is added to it
    float empty_row;   // what a row without a live key yields
    i32 low, high;     // row r sees keys r + low ≤ k < r + high; ±2^30 where nothing binds
    i32 entry_rows;    // of first_key and end_key from one batch entry to the next; 0 where all see the same
    const i32* shift;  // per batch entry, added to both; |shift| < 2^30; null for none
    const i32* first_key;  // per global query row, the first and one past the last key of its document; null for none
    const i32* end_key;
    Leaf bias, mask, sinks;  // bias and sinks f32 or the type of q; mask one byte an element
};

// A block of query rows of one head: the unit of work.
struct Work {
    i32 piece;
    i32 batch, head;  // the query head
    i32 first;        // its first row, counted in the piece
};

// A half-open range of rows of a piece.
struct Span {
    i32 begin, end;
};

// How many rows lie below the global row `bound`.
__device__ inline i32 rows_below(const Rows& rows, i32 bound) {
    i32 distance = bound - rows.start;
    if (distance <= 0) return 0;
    if (rows.step != 1) distance = (i32)((u32)(distance - 1) / (u32)rows.step) + 1;
    return distance < rows.len ? distance : rows.len;
}

// a + b, or the nearest number that leaves room for differences of rows.
__device__ inline i32 nearest(i32 a, i32 b) {
    i64 sum = (i64)a + b;
    i64 far = (i64)1 << 30;
    return (i32)(sum < -far ? -far : sum > far ? far : sum);
}

// The keys of a piece that the query row with this global number sees by position.
__device__ inline Span visible(const Params& p, const Rows& keys, i32 batch, i32 row) {
#if POSITIONS
    i32 low = row + p.low, high = row + p.high;
    if (p.shift) {
        low = nearest(low, p.shift[batch]);
        high = nearest(high, p.shift[batch]);
    }
    if (p.first_key) {
        const i64 at = (i64)batch * p.entry_rows + row;
        low = low > p.first_key[at] ? low : p.first_key[at];
        high = high < p.end_key[at] ? high : p.end_key[at];
    }
    i32 begin = rows_below(keys, low), end = rows_below(keys, high);
    return {begin, end > begin ? end : begin};
#else
    return {0, keys.len};
#endif
}

// Tile t in the order in which tiles are taken: groups of heads that share the cache; in a group the last rows first, for
// under a causal mask those are the longest, and the short ones fill the gaps at the end.
template <int M>
__device__ inline Work work_of(const Params& p, i32 t) {
    i32 per_head = 0;
    for (i32 i = 0; i < p.q_pieces; ++i) per_head += (p.q_piece[i].rows.len + M - 1) / M;
    i32 heads = p.batch * p.q_heads;
    i32 group = t / (p.head_group * per_head);
    i32 in_group = t - group * p.head_group * per_head;
    i32 left = heads - group * p.head_group;
    i32 width = left < p.head_group ? left : p.head_group;
    i32 head = group * p.head_group + in_group % width;
    i32 block = per_head - 1 - in_group / width;
    i32 piece = 0;
    for (;; ++piece) {
        i32 blocks = (p.q_piece[piece].rows.len + M - 1) / M;
        if (block < blocks) break;
        block -= blocks;
    }
    return {piece, head / p.q_heads, head % p.q_heads, block * M};
}

__device__ inline i32 global_row(const Rows& rows, i32 i) { return rows.start + i * rows.step; }

// The row of q that begins the tile, and that of out which row `row` of the piece is.
__device__ inline i64 first_query(const QPiece& piece, const Work& w) {
    return ((i64)w.batch * piece.q_heads + w.head) * piece.q_rows + w.first;
}

__device__ inline i64 result_row(const QPiece& piece, i32 batch, i32 head, i32 row) {
    return ((i64)batch * piece.out_heads + head) * piece.out_rows + row;
}

// The key head that the query head reads.
__device__ inline i32 key_head(const Params& p, i32 head) { return (head + p.head_shift) / p.group; }

// Row 0 of the tile's key head.
__device__ inline i64 first_key_row(const Params& p, const Work& w, const KvPiece& piece) {
    return ((i64)w.batch * piece.batch_heads + key_head(p, w.head)) * piece.head_rows;
}

// Where the query row `row` of a piece begins in a leaf.
__device__ inline i64 leaf_row(const Leaf& leaf, const Work& w, const Rows& rows, i32 row) {
    return w.batch * leaf.batch + w.head * leaf.head +
           (leaf.local_rows ? rows.local + row : global_row(rows, row)) * leaf.row;
}

// Which sixteen query rows, of all heads and pieces, a row of a tile belongs to. A kernel that multiplies the values of hidden
// keys by 0 leaves sixteen rows unwritten where a result is infinite or NaN, and marks them in Params::odd; a kernel that
// does not, launched behind it with the same marks, does only those, and clears their marks.
__device__ inline i64 sixteen(const Params& p, const Work& w, i32 row) {
    i32 before = 0, all = 0;
    for (i32 i = 0; i < p.q_pieces; ++i) {
        i32 count = (p.q_piece[i].rows.len + 15) / 16;
        if (i < w.piece) before += count;
        all += count;
    }
    return ((i64)w.batch * p.q_heads + w.head) * all + before + row / 16;
}

// The keys that take part for some row of the tile. Under a finite fill a masked key takes part too.
template <int M>
__device__ inline Span needed(const Params& p, const Work& w, i32 piece) {
    const Rows& q = p.q_piece[w.piece].rows;
    const Rows& keys = p.kv_piece[piece].rows;
#if POSITIONS && FILL == FILL_NEG_INF
    i32 last = w.first + M < q.len ? w.first + M - 1 : q.len - 1;
    i32 begin = visible(p, keys, w.batch, global_row(q, w.first)).begin;
    i32 end = visible(p, keys, w.batch, global_row(q, last)).end;
    return {begin, end > begin ? end : begin};
#else
    return {0, keys.len};
#endif
}

// How many blocks of N keys a tile has.
template <int M, int N>
__device__ inline i32 count_blocks(const Params& p, const Work& w) {
    i32 count = 0;
    for (i32 i = 0; i < p.kv_pieces; ++i) {
        Span keys = needed<M>(p, w, i);
        if (keys.begin < keys.end) count += (keys.end - 1) / N - keys.begin / N + 1;
    }
    return count;
}

// Walks the blocks of keys of a tile: pieces from the last to the first, in each the blocks from the last to the first, so
// that under a causal mask the blocks that need masking come first.
template <int M, int N>
struct Blocks {
    i32 piece, block, floor;

    __device__ Blocks(const Params& p, const Work& w) : piece(p.kv_pieces), block(0), floor(0) { next(p, w); }

    __device__ bool done() const { return piece < 0; }

    __device__ void next(const Params& p, const Work& w) {
        if (--block >= floor && piece < p.kv_pieces) return;
        while (--piece >= 0) {
            Span keys = needed<M>(p, w, piece);
            if (keys.begin < keys.end) {
                floor = keys.begin / N;
                block = (keys.end - 1) / N;
                return;
            }
        }
    }
};

// Four neighbouring lanes hold a 4×4 matrix, a row each; afterwards each holds a column.
__device__ inline void transpose_quad(u32 (&x)[4], int lane) {
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2) {
        bool upper = lane & bit;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i & bit) continue;
            u32 got = shuffle_xor(upper ? x[i] : x[i + bit], bit);
            if (upper)
                x[i] = got;
            else
                x[i + bit] = got;
        }
    }
}
