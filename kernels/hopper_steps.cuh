// Before the softmax: the steps, which ask nothing of the pair of rows here, and the mask.
template <int N>
__device__ inline void change_scores(const Params& p, float (&s)[BN / 2]) {
    if constexpr (N < STEPS) {
        constexpr int KIND = step_kind(N);
        static_assert(KIND == STEP_FACTOR || KIND == STEP_SOFTCAP || KIND == STEP_ROUND_F16 || KIND == STEP_ROUND_BF16, "kinds");
        const float number = p.number[N], inverse = KIND == STEP_SOFTCAP ? 1.0f / number : 0.0f;
#pragma unroll
        for (int i = 0; i < BN / 2; ++i) s[i] = changed<KIND>(s[i], number, inverse);
        change_scores<N + 1>(p, s);
    }
}

__device__ inline void prepare(const Params& p, const Sight& sight, float (&s)[BN / 2], i32 block) {
    change_scores<0>(p, s);
    sight.cover(s, block);
}

