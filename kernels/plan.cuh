// How the portable kernels cut their work: a block of threads takes a tile of BM query rows of one head, and walks over the
// blocks of BN keys that its rows see.

constexpr int THREADS = WARPS * 32;
#if ELEMENT_F32
constexpr int BM = WARPS * ROW_TILES * 8;
#else
constexpr int BM = WARPS * ROW_TILES * 16;
#endif

// Whether some key that exists may have no part for some row.
constexpr bool CAN_HIDE = ((POSITIONS || MASK) && FILL == FILL_NEG_INF) || BIAS;

// What is known of a tile before the work on it, in shared memory: registers are scarce.
struct Plan {
    Work work;
    i32 blocks;  // of keys, in all pieces
    // Per piece: how many blocks lie in the pieces before, and its first block that some row sees.
    i32 before[MAX_PIECES], first[MAX_PIECES];
    Span seen[POSITIONS ? MAX_PIECES : 1][POSITIONS ? BM : 1];  // per piece and row of the tile, the keys that it sees
};

__device__ inline void make_plan(const Params& p, Plan& plan) {
    const Work w = work_of<BM>(p, blockIdx.x);
    if (threadIdx.x == 0) {
        plan.work = w;
        i32 blocks = 0;
        for (i32 piece = 0; piece < p.kv_pieces; ++piece) {
            const Span keys = needed<BM>(p, w, piece);
            plan.before[piece] = blocks;
            plan.first[piece] = keys.begin / BN;
            if (keys.begin < keys.end) blocks += (keys.end - 1) / BN + 1 - keys.begin / BN;
        }
        plan.blocks = blocks;
    }
#if POSITIONS
    const Rows& q = p.q_piece[w.piece].rows;
    for (i32 piece = 0; piece < p.kv_pieces; ++piece)
        for (i32 i = threadIdx.x; i < BM; i += THREADS) {
            i32 row = w.first + i < q.len ? w.first + i : q.len - 1;
            plan.seen[piece][i] = visible(p, p.kv_piece[piece].rows, w.batch, global_row(q, row));
        }
#endif
    block_sync();
}

__device__ inline Span seen(const Params& p, const Plan& plan, i32 piece, i32 row) {
#if POSITIONS
    return plan.seen[piece][row];
#else
    return {0, p.kv_piece[piece].rows.len};
#endif
}

// A block of keys of a piece.
struct At {
    i32 piece, block;

    // The nth of the tile, in the order of keys. Work goes from the last to the first: under a causal mask the blocks that
    // need masking come first.
    __device__ At(const Params& p, const Plan& plan, i32 nth) : piece(p.kv_pieces - 1) {
        while (plan.before[piece] > nth) --piece;
        block = plan.first[piece] + nth - plan.before[piece];
    }

    // Whether every row of the tile sees every key. Both ends of what a row sees ascend with the row.
    __device__ bool clear(const Params& p, const Plan& plan) const {
        return !MASK && !BIAS && block * BN >= seen(p, plan, piece, BM - 1).begin &&
               (block + 1) * BN <= seen(p, plan, piece, 0).end;
    }
};

// The row of the piece that the row of the tile is; beyond the end, the last.
__device__ inline i32 query(const Params& p, const Plan& plan, i32 row) {
    const i32 last = p.q_piece[plan.work.piece].rows.len - 1;
    return plan.work.first + row < last ? plan.work.first + row : last;
}
