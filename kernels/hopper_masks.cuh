// Before the softmax: softcap and mask.
__device__ inline void prepare(const Params& p, const Sight& sight, float (&s)[BN / 2], i32 block) {
#if SOFTCAP
    cap_scores(s, p.scale, p.softcap);
#endif
    sight.cover(s, block);
}

