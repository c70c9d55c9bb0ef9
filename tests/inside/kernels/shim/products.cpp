// Matrix products: wgmma, taken only at the wait that covers it, and mma.sync with ldmatrix.

#include <cmath>
#include <cstring>

#include "machine.h"

namespace machine {

bool elements_are_bf16;

static u32 bits_of(float x) {
    u32 y;
    memcpy(&y, &x, 4);
    return y;
}

static float float_of(u32 x) {
    float y;
    memcpy(&y, &x, 4);
    return y;
}

float element_value(u16 x) {
    if (elements_are_bf16) return float_of((u32)x << 16);
    _Float16 y;
    memcpy(&y, &x, 2);
    return (float)y;
}

u16 element_of(float x) {
    if (elements_are_bf16) {
        if (x != x) return 0x7fff;
        u32 b = bits_of(x);
        return (u16)((b + 0x7fff + (b >> 16 & 1)) >> 16);  // to nearest, ties to even
    }
    _Float16 y = (_Float16)x;
    u16 bits;
    memcpy(&bits, &y, 2);
    return bits;
}

// ---- wgmma -------------------------------------------------------------------------------------------------------------

// A matrix in shared memory in the 128-byte swizzle, as its descriptor says.
struct Tile {
    u32 start, leading, stride;

    explicit Tile(u64 d) : start((u32)(d & 0x3fff) << 4), leading((u32)(d >> 16 & 0x3fff) << 4), stride((u32)(d >> 32 & 0x3fff) << 4) {
        if (d >> 62 != 1) fault("a descriptor without the 128-byte swizzle");
        if (d & 0x3fff'c000'c000'c000) fault("a descriptor with bits where none belong: 0x%llx", d);
        if (start & 0x380) fault("a tile that starts inside of a group of 8 rows");
    }
    static u32 swizzled(u32 address) {
        if (address >= shared_bytes) fault("a product reads beyond shared memory");
        return address ^ (address >> 3 & 0x70);
    }
    // Element k of row r, with the inner axis of the product along a row.
    u32 inner(u32 r, u32 k) const { return swizzled(start + r / 8 * stride + r % 8 * 128 + 2 * k); }
    // Element n of row k, with the inner axis down the rows.
    u32 outer(u32 k, u32 n) const { return swizzled(start + n / 64 * leading + k / 8 * stride + k % 8 * 128 + 2 * (n % 64)); }
};

// Calls `visit` with every 16 bytes that the product of a warp reads.
template <class F>
static void for_granules(const Product& p, F visit) {
    Tile b(p.b);
    if (p.weights) {
        for (u32 k = 0; k < 16; ++k)
            for (u32 n = 0; n < (u32)p.n; n += 8) visit(b.outer(k, n) / 16);
        return;
    }
    Tile a(p.a);
    u32 rows = self->warp % 4 * 16;
    for (u32 k = 0; k < 16; k += 8) {
        for (u32 r = 0; r < 16; ++r) visit(a.inner(rows + r, k) / 16);
        for (u32 n = 0; n < (u32)p.n; ++n) visit(b.inner(n, k) / 16);
    }
}

static bool dirty(const void* at, size_t bytes) {
    size_t first = ((u8*)at - self->stack) / 4;
    for (size_t i = first; i < first + bytes / 4; ++i)
        if (self->written[i]) return true;
    return false;
}

void wgmma_fence() { self->written.assign(STACK_BYTES / 4, false); }

void wgmma_issue(float* sum, int n, u64 a, u64 b, const u32* weights, bool add) {
    const Product p{sum, n, a, b, weights, add};
    if (dirty(p.sum, p.n * 2) || (p.weights && dirty(p.weights, 16)))
        fault("a product uses registers that were written after the last wgmma_fence");
    self->open_products.push_back(p);
    ++self->issued;
    if (self->lane) return;
    for_granules(p, engine_read_begins);
    for (Thread* t : self->block->waiting_for_products) wake(*t);
    self->block->waiting_for_products.clear();
}

void wgmma_commit() {
    self->products.push_back(std::move(self->open_products));
    self->open_products.clear();
    pause();
}

// A warp's 16 rows of one product.
static void take(const Product* lanes[WARP]) {
    const Product& p = *lanes[0];
    static float a[16][16], b[16][256], sum[16][256];
    Tile tile_b(p.b);
    const u8* shared = self->block->shared;
    auto load = [&](u32 at) {
        u16 x;
        memcpy(&x, shared + at, 2);
        return element_value(x);
    };
    for (u32 k = 0; k < 16; ++k)
        for (u32 n = 0; n < (u32)p.n; ++n) b[k][n] = load(p.weights ? tile_b.outer(k, n) : tile_b.inner(n, k));
    if (p.weights) {
        for (int lane = 0; lane < WARP; ++lane)
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 2; ++j)
                    a[lane / 4 + i % 2 * 8][i / 2 * 8 + lane % 4 * 2 + j] = element_value((u16)(lanes[lane]->weights[i] >> 16 * j));
    } else {
        Tile tile_a(p.a);
        for (u32 r = 0; r < 16; ++r)
            for (u32 k = 0; k < 16; ++k) a[r][k] = load(tile_a.inner(self->warp % 4 * 16 + r, k));
    }
    auto each = [&](auto f) {
        for (int lane = 0; lane < WARP; ++lane)
            for (int i = 0; i < p.n / 2; ++i) f(lanes[lane]->sum[i], sum[lane / 4 + (i / 2 & 1) * 8][i / 4 * 8 + lane % 4 * 2 + (i & 1)]);
    };
    if (p.add)
        each([](float& mine, float& s) { s = mine; });
    else
        memset(sum, 0, sizeof sum);
    for (int r = 0; r < 16; ++r)
        for (int k = 0; k < 16; ++k)
            for (int n = 0; n < p.n; ++n) sum[r][n] += a[r][k] * b[k][n];
    each([](float& mine, float& s) { mine = s; });
}

// Takes the oldest group of the warp, all of whose lanes are here.
static void take_group() {
    Thread* lane0 = &self->block->threads[self->warp * WARP];
    Warp& warp = self->block->warps[self->warp];
    Epoch by{self->block->index, (u32)self->block->threads.size() + self->warp, ++warp.products_time};
    size_t count = lane0->products.front().size();
    for (size_t i = 0; i < count; ++i) {
        const Product* lanes[WARP];
        const Product& p = lane0->products.front()[i];
        for (int lane = 0; lane < WARP; ++lane) {
            const std::vector<Product>& group = lane0[lane].products.front();
            lanes[lane] = &group[i];
            if (group.size() != count || group[i].a != p.a || group[i].b != p.b || group[i].n != p.n || group[i].add != p.add)
                fault("the lanes of a warp issue different products");
        }
        take(lanes);
        for_granules(p, [&](u32 granule) { engine_read_ends(granule, by); });
    }
    for (int lane = 0; lane < WARP; ++lane) {
        lane0[lane].products.pop_front();
        lane0[lane].seen[by.who] = by.time;
    }
}

void wgmma_wait(u32 left) {
    // A product ends only when all four warps have issued it.
    u64 need = self->issued - self->open_products.size();
    for (size_t i = 0; i < self->products.size() && i < left; ++i) need -= self->products[self->products.size() - 1 - i].size();
    for (;;) {
        bool all = true;
        for (int w = self->warp & ~3; w < (self->warp | 3) + 1; ++w) all &= self->block->threads[w * WARP].issued >= need;
        if (all) break;
        self->block->waiting_for_products.push_back(self);
        wait("wgmma_wait, for other warps of the warpgroup");
    }
    struct Wait { u32 left; } mine{left};
    meet("wgmma_wait", &mine, [](void* given[WARP]) {
        u32 left = ((Wait*)given[0])->left;
        Thread* lane0 = &self->block->threads[self->warp * WARP];
        while (lane0->products.size() > left) take_group();
    });
}

// ---- mma.sync ----------------------------------------------------------------------------------------------------------

struct LoadMatrix {
    u32* r;
    const u8* row;
    bool transposed;
};

void load_matrix(u32* r, const void* row, bool transposed) {
    if (shared_offset(row) % 16) fault("ldmatrix from an address that 16 does not divide");
    access(row, 16, false);
    LoadMatrix mine{r, (const u8*)row, transposed};
    meet("ldmatrix", &mine, [](void* given[WARP]) {
        auto lane_of = [&](int i) { return *(LoadMatrix*)given[i]; };
        for (int lane = 0; lane < WARP; ++lane)
            for (int matrix = 0; matrix < 4; ++matrix) {
                u16 pair[2];
                for (int j = 0; j < 2; ++j) {
                    int row = lane / 4, column = lane % 4 * 2 + j;
                    if (lane_of(lane).transposed) std::swap(row, column);
                    memcpy(&pair[j], lane_of(matrix * 8 + row).row + 2 * column, 2);
                }
                memcpy(&lane_of(lane).r[matrix], pair, 4);
            }
    });
}

struct Mma {
    float* d;
    const u32* a;
    u32 b[2];
};

void mma_16x8x16(float* d, const u32* a, u32 b0, u32 b1) {
    Mma mine{d, a, {b0, b1}};
    meet("mma", &mine, [](void* given[WARP]) {
        float a[16][16], b[16][8];
        auto lane_of = [&](int i) -> Mma& { return *(Mma*)given[i]; };
        for (int lane = 0; lane < WARP; ++lane)
            for (int j = 0; j < 2; ++j) {
                int row = lane / 4, k = lane % 4 * 2 + j;
                for (int i = 0; i < 4; ++i) a[row + i % 2 * 8][k + i / 2 * 8] = element_value((u16)(lane_of(lane).a[i] >> 16 * j));
                for (int i = 0; i < 2; ++i) b[k + i * 8][row] = element_value((u16)(lane_of(lane).b[i] >> 16 * j));
            }
        for (int lane = 0; lane < WARP; ++lane)
            for (int i = 0; i < 4; ++i) {
                float& sum = lane_of(lane).d[i];
                int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
                for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
            }
    });
}

}  // namespace machine
