// ---- the kernel --------------------------------------------------------------------------------------------------------

__device__ inline void load_queries(const Params& p, const Work& w, u8* tile) {
    const QPiece& piece = p.q_piece[w.piece];
    const i64 row = first_query(piece, w);
    load_tile<BM, DK>(tile, reinterpret_cast<const u16*>(piece.q) + row * p.dk, piece.rows.len - w.first, p.dk);
}

// Of the block with so many left, itself included: k, then v.
__device__ inline u32 buffer_of(i32 left) { return Q_BYTES + (left & 1) * (K_BYTES + V_BYTES); }

// Keys and values of a block into a buffer.
__device__ inline void load_block(const Params& p, const Work& w, u8* buffer, const At& at) {
    const KvPiece& kv = p.kv_piece[at.piece];
    const i64 row = first_key_row(p, w, kv) + at.block * BN;
    const i32 rows = kv.rows.len - at.block * BN;
    load_tile<BN, DK>(buffer, reinterpret_cast<const u16*>(kv.k) + row * p.dk, rows, p.dk);
    load_tile<BN, DV>(buffer + K_BYTES, reinterpret_cast<const u16*>(kv.v) + row * p.dv, rows, p.dv);
}

// Whether some rows of the block's tile are marked.
__device__ inline bool has_odd(const Params& p) {
    const Work w = work_of<BM>(p, blockIdx.x);
    const i32 row = w.first + (i32)threadIdx.x * 16;
    const bool inside = threadIdx.x < BM / 16 && row < p.q_piece[w.piece].rows.len;
    return block_any(inside && p.odd[sixteen(p, w, row)]);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) attn_partial(const __grid_constant__ Params p) {
    Plan& plan = *reinterpret_cast<Plan*>(shared_base() + PLAN_AT);
    const int lane = threadIdx.x & 31, warp_row = threadIdx.x / 32 * WARP_ROWS;
    const i32 row = warp_row + lane / 4;  // the lane's first row in the tile

    if (p.odd && !has_odd(p)) return;
    make_plan(p, plan);

    // Scores stay in units of `scale` until the exponential where nothing comes in between and it is positive.
    const bool late_scale = !SOFTCAP && !WIDE && p.scale > 0.0f;
    const float unit = late_scale ? p.scale : 1.0f;

    float o[ROW_TILES][DV / 2];
    Softmax<BN> soft[ROW_TILES];
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
        soft[t].reset();
#pragma unroll
        for (int i = 0; i < DV / 2; ++i) o[t][i] = 0.0f;
    }

    i32 left = plan.blocks;
    if (left) {
        load_queries(p, plan.work, shared_base());
        load_block(p, plan.work, shared_base() + buffer_of(left), At(p, plan, left - 1));
    }
    copy_async_commit();

    for (; left; --left) {
        const At at(p, plan, left - 1);
        const bool clear = at.clear(p, plan);
        const u32 k = buffer_of(left), v = k + K_BYTES;

        Cover covers[ROW_TILES];
        if (!clear) {
#pragma unroll
            for (int t = 0; t < ROW_TILES; ++t) covers[t].look(p, plan, at, row + 16 * t, lane);
        }

        copy_async_wait<0>();
        // Also: every warp is done with the other buffer.
        bool odd = false;
        if (CAN_HIDE)
            odd = block_any(!clear && holds_not_finite<BN, DV>(shared_base() + v));
        else
            block_sync();
        if (left > 1) load_block(p, plan.work, shared_base() + buffer_of(left - 1), At(p, plan, left - 2));
        copy_async_commit();

        float s[ROW_TILES][BN / 2];
        u32 weights[ROW_TILES][BN / 4];
        const int l = forgotten(lane);
        scores(s, Fragments<DK>(warp_row * DK * 2, l & 15, l >> 4), Fragments<DK>(k, (l & 7) + (l >> 4) * 8, (l >> 3) & 1));
#pragma unroll
        for (int t = 0; t < ROW_TILES; ++t) {
            if (SOFTCAP) {
                cap_scores(s[t], p.scale, p.softcap);
            } else if (!late_scale) {
#pragma unroll
                for (int i = 0; i < BN / 2; ++i) s[t][i] *= p.scale;
            }
            if (!clear) covers[t].put(p, plan, at, row + 16 * t, lane, s[t]);
            float shrink[2];
            soft[t].peak(s[t], unit, shrink);
            soft[t].weigh(s[t], unit, shrink);
            pack_weights(weights[t], s[t]);
            shrink_moved(o[t], shrink);
        }
        if (CAN_HIDE && odd) {
            block_sync();  // every warp is done with k, which now takes the weights
            u16* const mine = reinterpret_cast<u16*>(shared_base() + k) + threadIdx.x / 32 * 16 * BN;
#pragma unroll
            for (int t = 0; t < ROW_TILES; ++t) {
                covers[t].mark(weights[t]);
#pragma unroll
                for (int i = 0; i < BN / 4; ++i)
                    *reinterpret_cast<u32*>(mine + (lane / 4 + i % 2 * 8) * BN + i / 2 * 8 + (lane & 3) * 2) = weights[t][i];
                warp_sync();
                add_values_by_key(o[t], mine, shared_base() + v, lane);
                warp_sync();
            }
        } else {
            add_values(o, weights, Fragments<DV>(v, l & 15, l >> 4));
        }
    }
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
        const i32 first = plan.work.first + warp_row + 16 * t;
        if (p.odd) {
            const bool inside = first < p.q_piece[plan.work.piece].rows.len;
            u8* const mark = p.odd + sixteen(p, plan.work, first);
            if (!inside || !*mark) continue;
            warp_sync();
            if (lane == 0) *mark = 0;
        }
        Carry<1> carry;
        finish(p, plan.work, o[t], soft[t], carry, first + lane / 4, lane);
    }
}
