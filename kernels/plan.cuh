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

// What of a tile does not change while it is worked on, in shared memory: registers are scarce.
struct Plan {
    Work work;
    Span seen[POSITIONS ? MAX_PIECES : 1][POSITIONS ? BM : 1];  // per piece and row of the tile, the keys that it sees
};

__device__ inline void make_plan(const Params& p, Plan& plan) {
    const Work w = work_of<BM>(p, blockIdx.x);
    if (threadIdx.x == 0) plan.work = w;
#if POSITIONS
    const Rows& q = p.q_piece[w.piece].rows;
    for (i32 piece = 0; piece < p.kv_pieces; ++piece)
        for (i32 i = threadIdx.x; i < BM; i += THREADS) {
            i32 row = w.first + i < q.len ? w.first + i : q.len - 1;
            plan.seen[piece][i] = visible(p, p.kv_piece[piece].rows, w.batch, global_row(q, row));
        }
#endif
}

__device__ inline Span seen(const Params& p, const Plan& plan, i32 piece, i32 row) {
#if POSITIONS
    return plan.seen[piece][row];
#else
    return {0, p.kv_piece[piece].rows.len};
#endif
}

// Walks the blocks of keys of a tile: pieces from the last to the first, in each the blocks from the last to the first.
struct Walk {
    i32 piece, block = 0, floor = 0;

    __device__ Walk(const Params& p, const Plan& plan) : piece(p.kv_pieces) { next(p, plan); }

    __device__ bool done() const { return piece < 0; }

    __device__ void next(const Params& p, const Plan& plan) {
        if (--block >= floor && piece < p.kv_pieces) return;
        while (--piece >= 0) {
            Span keys = {0, p.kv_piece[piece].rows.len};
            // Both ends ascend with the row. Under a finite fill every key takes part.
            if (FILL == FILL_NEG_INF) keys = {seen(p, plan, piece, 0).begin, seen(p, plan, piece, BM - 1).end};
            if (keys.begin < keys.end) {
                floor = keys.begin / BN;
                block = (keys.end - 1) / BN;
                return;
            }
        }
    }

    // Whether every row sees every key of the block.
    __device__ bool clear(const Params& p, const Plan& plan) const {
        return block * BN >= seen(p, plan, piece, BM - 1).begin && (block + 1) * BN <= seen(p, plan, piece, 0).end;
    }
};

// The row of the piece that the row of the tile is; beyond the end, the last.
__device__ inline i32 query(const Params& p, const Plan& plan, i32 row) {
    const i32 last = p.q_piece[plan.work.piece].rows.len - 1;
    return plan.work.first + row < last ? plan.work.first + row : last;
}
