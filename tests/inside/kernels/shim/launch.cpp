// Reads launches of an attention kernel from standard input, runs them under each seed of the command line, and writes what
// `dump` asks for, which must be the same bits under every seed.
//
// A line per command; numbers that are floats are written as their bits.
//   buffer NAME BYTES UNIT         followed by so many bytes; UNIT as in `add_region`
//   q_piece START STEP LEN LOCAL CARRY     CARRY, K, V: a buffer or -
//   q_place Q AT ROWS HEADS OUT AT LSE AT ROWS HEADS    where the last piece of queries lies and goes: buffers, bytes from their begin,
//                                  rows of a head, heads of a batch entry; else in the rows LOCAL of q, out and lse
//   kv_piece START STEP LEN LOCAL K V
//   kv_place AT AT ROWS HEADS      where the last piece of keys lies in K and in V; else it is all of them
//   leaf bias|mask|sinks|step0|… NAME BATCH HEAD ROW KEY LOCAL_ROWS
//   step N NUMBER LOW HIGH FIRST END ROWS  the number and the band of a step; FIRST, END: a buffer or -
//   at FIELD NAME                  a pointer of Params
//   set FIELD NUMBER               a number of Params
//   launch BLOCKS                  0 for a block per tile; then both lists of pieces are empty again
//   region NUMBER NAME             a buffer that `raw` speaks of
//   raw BYTES BLOCKS               followed by so many bytes, the kernel's whole argument, which is launched; a word whose first byte is
//                                  0x5a is a pointer: a byte for the number of the buffer, six for how far in it
//   dump NAME
#include <cstdio>
#include <cstring>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>

#include "cuda.h"
#include "machine.h"

#define POSITIONS 1
#define FILL 0
// Kernels without steps take the part that all kernels have.
#define Params UsualParams
#include "contract.cuh"
#include "step_params.cuh"
#include "kernel.h"

static Params params;
Whole whole;
static struct {
    TensorMap q[MAX_PIECES], k[MAX_PIECES], v[MAX_PIECES];
} maps;

// Rows of so many matrices, which are `apart` rows from each other.
static TensorMap tensor_map(const void* at, u32 columns, u32 rows, u32 apart, u32 matrices, u32 box_rows) {
    machine::Box box{(const u8*)at, 2, {columns, rows, matrices}, {2, (u64)columns * 2, (u64)columns * 2 * apart}, {64, box_rows, 1}};
    // As cuTensorMapEncodeTiled wants it.
    if ((uintptr_t)at % 16 || columns * 2 % 16) machine::fault("a tensor map whose address or stride 16 does not divide");
    if (!columns || !rows || !matrices || box_rows > 256) machine::fault("a tensor map of no or too many elements");
    TensorMap map{};
    static_assert(sizeof box <= sizeof map);
    memcpy(&map, &box, sizeof box);
    return map;
}

static void enter() { kernel.enter(&params, &maps); }

// The argument as it is, for a kernel of any kind.
static u64 raw[1024];
static u8* regions[256];
static void enter_raw() { kernel.enter(raw, &maps); }

static void make_maps(const Params& p) {
    if (!kernel.has_maps) return;
    for (i32 i = 0; i < p.q_pieces; ++i) {
        const QPiece& piece = p.q_piece[i];
        if (!piece.rows.len) continue;
        if (p.batch > 1 && p.q_heads != piece.q_heads) machine::fault("a tensor map of some heads of each batch entry");
        maps.q[i] = tensor_map(piece.q, p.dk, piece.rows.len, piece.q_rows, p.batch * p.q_heads, kernel.rows);
    }
    for (i32 i = 0; i < p.kv_pieces; ++i) {
        const KvPiece& piece = p.kv_piece[i];
        if (!piece.rows.len) continue;
        if (p.batch > 1 && p.kv_heads != piece.batch_heads) machine::fault("a tensor map of some heads of each batch entry");
        const u32 matrices = p.batch * p.kv_heads;
        maps.k[i] = tensor_map(piece.k, p.dk, piece.rows.len, piece.head_rows, matrices, kernel.keys);
        maps.v[i] = tensor_map(piece.v, p.dv, piece.rows.len, piece.head_rows, matrices, kernel.keys);
    }
}

static void launch_raw(std::istream& in, size_t bytes, int blocks, u64 seed) {
    if (bytes > sizeof raw || bytes % 8) machine::fault("an argument of %zu bytes", bytes);
    in.get();
    in.read((char*)raw, bytes);
    for (size_t i = 0; i < bytes / 8; ++i)
        if (raw[i] >> 56 == 0x5a) raw[i] = (u64)regions[raw[i] >> 48 & 0xff] + (raw[i] & 0xffffffffffffull);
    Params p{};
    memcpy(&p, raw, bytes < sizeof p ? bytes : sizeof p);
    make_maps(p);
    machine::run(blocks, kernel.threads, kernel.shared_bytes, seed, enter_raw);
}

static void place_pieces() {
    if (!params.group) params.group = params.kv_heads ? params.q_heads / params.kv_heads : 1;
    for (i32 i = 0; i < params.q_pieces; ++i) {
        QPiece& piece = params.q_piece[i];
        if (piece.q_rows) continue;
        piece.q = (const u8*)whole.q + (i64)piece.rows.local * params.dk * whole.element;
        piece.out = (u8*)whole.out + (i64)piece.rows.local * params.dv * whole.element;
        piece.lse = whole.lse ? whole.lse + piece.rows.local : nullptr;
        piece.q_rows = piece.out_rows = whole.q_rows;
        piece.q_heads = piece.out_heads = params.q_heads;
    }
    for (i32 i = 0; i < params.kv_pieces; ++i) {
        KvPiece& piece = params.kv_piece[i];
        if (piece.head_rows) continue;
        piece.head_rows = piece.rows.len;
        piece.batch_heads = params.kv_heads;
    }
}

static void launch(int blocks, u64 seed) {
    place_pieces();
    params.tiles = 0;
    for (i32 i = 0; i < params.q_pieces; ++i)
        params.tiles += (params.q_piece[i].rows.len + kernel.rows - 1) / kernel.rows * params.batch * params.q_heads;
    make_maps(params);
    machine::run(blocks ? blocks : params.tiles, kernel.threads, kernel.shared_bytes, seed, enter);
    params.q_pieces = params.kv_pieces = 0;
}

// Pairs of field and place.
struct Fields {
    std::map<std::string, i32*> integers{{"batch", &params.batch}, {"q_heads", &params.q_heads}, {"kv_heads", &params.kv_heads},
        {"group", &params.group}, {"head_shift", &params.head_shift}, {"entry_rows", &params.entry_rows},
        {"q_rows", &whole.q_rows}, {"element", &whole.element}, {"dk", &params.dk}, {"dv", &params.dv}, {"head_group", &params.head_group},
        {"low", &params.low}, {"high", &params.high},
        {"scale", (i32*)&params.scale}, {"softcap", (i32*)&params.softcap}, {"fill", (i32*)&params.fill}, {"empty_row", (i32*)&params.empty_row}};
    std::map<std::string, const void**> pointers{{"q", &whole.q}, {"out", (const void**)&whole.out}, {"lse", (const void**)&whole.lse},
        {"counter", (const void**)&params.counter}, {"odd", (const void**)&params.odd}, {"shift", (const void**)&params.shift},
        {"first_key", (const void**)&params.first_key}, {"end_key", (const void**)&params.end_key}};
    std::map<std::string, Leaf*> leaves{{"bias", &params.bias}, {"mask", &params.mask}, {"sinks", &params.sinks}};

    Fields() {
        for (int i = 0; i < MAX_LEAVES; ++i) leaves["step" + std::to_string(i)] = &params.leaf[i];
    }
};

struct Buffer {
    std::unique_ptr<u8, decltype(&free)> at{nullptr, free};
    size_t bytes;
};

static std::string play(const std::string& input, u64 seed) {
    std::istringstream in(input);
    std::map<std::string, Buffer> buffers;
    Fields fields;
    std::string word, name, dumped;
    params = {};
    whole = {nullptr, nullptr, nullptr, 0, 2};
    machine::clear_regions();
    auto buffer = [&]() -> u8* {
        in >> name;
        if (name == "-") return nullptr;
        if (!buffers.count(name)) machine::fault("no buffer %s", name.c_str());
        return buffers[name].at.get();
    };
    while (in >> word) {
        if (word == "buffer") {
            int unit;
            size_t bytes;
            in >> name >> bytes >> unit;
            in.get();
            Buffer& b = buffers[name];
            b.bytes = bytes;
            b.at.reset((u8*)aligned_alloc(256, (bytes + 255) / 256 * 256 + 256));
            in.read((char*)b.at.get(), bytes);
            machine::add_region(name, b.at.get(), bytes, unit);
        } else if (word == "q_piece") {
            QPiece& piece = params.q_piece[params.q_pieces++];
            in >> piece.rows.start >> piece.rows.step >> piece.rows.len >> piece.rows.local;
            piece.carry = (float*)buffer();
            piece.q_rows = 0;
        } else if (word == "q_place") {
            QPiece& piece = params.q_piece[params.q_pieces - 1];
            auto place = [&]() -> u8* {
                u8* at = buffer();
                i64 bytes;
                in >> bytes;
                return at ? at + bytes : nullptr;
            };
            piece.q = place();
            in >> piece.q_rows >> piece.q_heads;
            piece.out = place();
            piece.lse = (float*)place();
            in >> piece.out_rows >> piece.out_heads;
        } else if (word == "kv_place") {
            KvPiece& piece = params.kv_piece[params.kv_pieces - 1];
            i64 k, v;
            in >> k >> v >> piece.head_rows >> piece.batch_heads;
            piece.k = (const u8*)piece.k + k;
            piece.v = (const u8*)piece.v + v;
        } else if (word == "kv_piece") {
            KvPiece& piece = params.kv_piece[params.kv_pieces++];
            in >> piece.rows.start >> piece.rows.step >> piece.rows.len >> piece.rows.local;
            piece.k = buffer();
            piece.v = buffer();
            piece.head_rows = 0;
        } else if (word == "leaf") {
            in >> word;
            Leaf& leaf = *fields.leaves.at(word);
            leaf.at = buffer();
            in >> leaf.batch >> leaf.head >> leaf.row >> leaf.key >> leaf.local_rows;
        } else if (word == "step") {
            u32 n;
            i64 number;
            in >> n >> number;
            if (n >= MAX_STEPS) machine::fault("a step %u", n);
            const i32 bits = (i32)number;
            memcpy(&params.number[n], &bits, 4);
            Band& band = params.band[n];
            in >> band.low >> band.high;
            band.first_key = (const i32*)buffer();
            band.end_key = (const i32*)buffer();
            in >> band.entry_rows;
        } else if (word == "at") {
            in >> word;
            *fields.pointers.at(word) = buffer();
        } else if (word == "set") {
            i64 value;
            in >> word >> value;
            *fields.integers.at(word) = (i32)value;
        } else if (word == "region") {
            int number;
            in >> number;
            regions[number & 0xff] = buffer();
        } else if (word == "raw") {
            size_t bytes;
            int blocks;
            in >> bytes >> blocks;
            launch_raw(in, bytes, blocks, seed);
        } else if (word == "launch") {
            int blocks;
            in >> blocks;
            launch(blocks, seed);
        } else if (word == "dump") {
            u8* at = buffer();
            dumped.append((const char*)at, buffers[name].bytes);
        } else {
            machine::fault("what is %s?", word.c_str());
        }
        if (!in) machine::fault("the input ends early, after %s", word.c_str());
    }
    return dumped;
}

int main(int count, char** seeds) {
    machine::elements_are_bf16 = kernel.bf16;
    std::string input(std::istreambuf_iterator<char>(std::cin), {}), first;
    for (int i = 1; i < count; ++i) {
        std::string dumped = play(input, strtoull(seeds[i], nullptr, 10));
        if (i == 1)
            first = dumped;
        else if (dumped != first)
            machine::fault("other bits under seed %s than under seed %s", seeds[i], seeds[1]);
    }
    fwrite(first.data(), 1, first.size(), stdout);
}
