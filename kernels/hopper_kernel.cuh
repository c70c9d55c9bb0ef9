__device__ inline void consume(const Params& p, u8* smem, Barriers& bar, int wg) {
    const u64 q_tile = tile_descriptor(smem + wg * 64 * 128, 16, 1024);
    const u64 k_tile = tile_descriptor(smem + K_AT, 16, 1024);
    const u64 v_tile = tile_descriptor(smem + V_AT, BN * 128, 1024);
    const float unit = SOFTCAP ? 1.0f : p.scale;
    const bool leads = (threadIdx.x & 31) == 0;  // arrives for its warp
    float s[BN / 2], o[DV / 2], shrink[2];
    u32 weights[BN / 4];
    u32 blocks = 0;  // of all tiles so far; the scores of a block are one ahead of its values
    Softmax<BN> soft;
    Sight sight;
    Carry<DV <= 128 ? 2 : 1> carry;
    if (wg == WGS - 1) turn_pass(wg);  // the first turn is warpgroup 0's
    for (u32 tiles = 0;; ++tiles) {
        mbarrier_wait(&bar.tile_full[slot_of<2>(tiles)], round_of<2>(tiles));
        const TileMail& tile = bar.tile[slot_of<2>(tiles)];
        i32 left = tile.blocks;
        if (left < 0) break;
        const u64 q_here = tile_advance(q_tile, slot_of<Q_SLOTS>(tiles) * Q_BYTES);
        soft.reset();
#pragma unroll
        for (int i = 0; i < DV / 2; ++i) o[i] = 0.0f;
        mbarrier_wait(&bar.q_full[slot_of<Q_SLOTS>(tiles)], round_of<Q_SLOTS>(tiles));
        if (left == 0) {
            warp_sync();  // all lanes have seen the phase end before the slot is freed, and with it the next phase may end
            if (leads) mbarrier_arrive(&bar.q_free[slot_of<Q_SLOTS>(tiles)]);
            carry.read_early(p, tile.work, first_row(tile.work, wg), lane_of_thread());
        }
        if (left > 0) {
            mbarrier_wait(&bar.k_full[slot_of<2>(blocks)], round_of<2>(blocks));
            const BlockMail at = bar.block[slot_of<2>(blocks)];
            warp_sync();  // all lanes have read it before one of them frees the slot
            i32 piece = at.piece;
            sight.look(p, tile.work, piece, wg);
            turn_wait(wg);
            hold(s);
            wgmma_fence();
            issue_scores(s, q_here, tile_advance(k_tile, slot_of<2>(blocks) * K_BYTES));
            wgmma_commit();
            turn_pass(wg);
            wgmma_wait<0>();
            hold(s);
            if (leads) mbarrier_arrive(&bar.k_free[slot_of<2>(blocks)]);
            if (left == 1 && leads) mbarrier_arrive(&bar.q_free[slot_of<Q_SLOTS>(tiles)]);
            prepare(p, sight, s, at.block);
            soft.peak(s, unit, shrink);
            soft.weigh(s, unit, shrink);
            pack_weights(weights, s);
            for (; --left > 0; ++blocks) {
                mbarrier_wait(&bar.k_full[slot_of<2>(blocks + 1)], round_of<2>(blocks + 1));
                const BlockMail at = bar.block[slot_of<2>(blocks + 1)];
                warp_sync();
                turn_wait(wg);
                hold(s);
                hold(o);
                hold(weights);
                wgmma_fence();
                issue_scores(s, q_here, tile_advance(k_tile, slot_of<2>(blocks + 1) * K_BYTES));
                wgmma_commit();
                mbarrier_wait(&bar.v_full[slot_of<2>(blocks)], round_of<2>(blocks));
                wgmma_fence();
                const u64 v_here = tile_advance(v_tile, slot_of<2>(blocks) * V_BYTES);
                issue_values<0, VALUES_AHEAD>(o, weights, v_here);
                wgmma_commit();
                if (at.piece != piece) {
                    piece = at.piece;
                    sight.look(p, tile.work, piece, wg);
                }
                wgmma_wait<1>();
                hold(s);
                if (leads) mbarrier_arrive(&bar.k_free[slot_of<2>(blocks + 1)]);
                if (left == 1 && leads) mbarrier_arrive(&bar.q_free[slot_of<Q_SLOTS>(tiles)]);
                prepare(p, sight, s, at.block);
                soft.peak(s, unit, shrink);
                wgmma_fence();
                issue_values<VALUES_AHEAD, BN / 16>(o, weights, v_here);
                wgmma_commit();
                turn_pass(wg);
                soft.weigh(s, unit, shrink);
                wgmma_wait<0>();
                hold(o);
                hold(weights);
                if (leads) mbarrier_arrive(&bar.v_free[slot_of<2>(blocks)]);
                pack_weights(weights, s);
                shrink_moved(o, shrink);
            }
            mbarrier_wait(&bar.v_full[slot_of<2>(blocks)], round_of<2>(blocks));
            hold(o);
            hold(weights);
            wgmma_fence();
            issue_values<0, BN / 16>(o, weights, tile_advance(v_tile, slot_of<2>(blocks) * V_BYTES));
            wgmma_commit();
            // The last products hide the wait for the carry, which takes the registers of the scores.
            carry.read_early(p, tile.work, first_row(tile.work, wg), lane_of_thread());
            wgmma_wait<0>();
            hold(o);
            if (leads) mbarrier_arrive(&bar.v_free[slot_of<2>(blocks)]);
            ++blocks;
        }
        const i32 row = first_row(tile.work, wg);
        if (is_left(p, o)) {
            if (leads && row < p.q_piece[tile.work.piece].rows.len) p.odd[sixteen(p, tile.work, row)] = 1;
        } else {
            finish(p, tile.work, o, soft, carry, row, lane_of_thread());
        }
        warp_sync();
        if (leads) mbarrier_arrive(&bar.tile_free[slot_of<2>(tiles)]);
    }
}

extern "C" __global__ void __launch_bounds__((WGS + 1) * 128, 1)
    attn_partial(const __grid_constant__ Params p, const __grid_constant__ Maps maps) {
    u8* smem = shared_base();
    Barriers& bar = *reinterpret_cast<Barriers*>(smem + BARRIERS_AT);
    if (threadIdx.x == 0) {
        for (int i = 0; i < Q_SLOTS; ++i) {
            mbarrier_init(&bar.q_full[i], 1);
            mbarrier_init(&bar.q_free[i], CONSUMER_WARPS);
        }
        for (int i = 0; i < 2; ++i) {
            mbarrier_init(&bar.k_full[i], 1);
            mbarrier_init(&bar.v_full[i], 1);
            mbarrier_init(&bar.k_free[i], CONSUMER_WARPS);
            mbarrier_init(&bar.v_free[i], CONSUMER_WARPS);
        }
        for (int i = 0; i < 2; ++i) {
            mbarrier_init(&bar.tile_full[i], 1);
            mbarrier_init(&bar.tile_free[i], CONSUMER_WARPS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_down<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) produce(p, maps, smem, bar);
    } else {
        registers_up<CONSUMER_REGISTERS>();
        consume(p, smem, bar, first_lane((int)threadIdx.x / 128) - 1);
    }
}
