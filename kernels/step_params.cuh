// What kernels of score programs beyond the usual order are handed besides the rest: a number for each step, the keys that its
// positions keep, and the tensors that the steps read.
//
// Follows contract.cuh, whose Params is UsualParams in these texts: that of the other kernels stays as it is, to the byte.
#undef Params

constexpr int MAX_STEPS = 8, MAX_LEAVES = 8;

// The keys that a query row keeps: row r keeps r + low ≤ k < r + high, and of those the ones of its document.
struct Band {
    i32 low, high;         // ±2^30 where nothing binds
    const i32* first_key;  // per global query row; null for none
    const i32* end_key;
    i64 entry_rows;        // from one batch entry to the next; 0 where all see the same
};

struct StepParams : UsualParams {
    float number[MAX_STEPS];  // the factor, the cap or the fill of a step
    Band band[MAX_STEPS];     // of a fill by position
    Leaf leaf[MAX_LEAVES];    // of all steps, in the order in which they read them; masks one byte an element
};

typedef StepParams Params;
