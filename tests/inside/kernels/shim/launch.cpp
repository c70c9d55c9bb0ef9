// Reads launches of an attention kernel from standard input, runs them under each seed of the command line, and writes what
// `dump` asks for, which must be the same bits under every seed.
//
// A line per command; numbers that are floats are written as their bits.
//   buffer NAME BYTES UNIT         followed by so many bytes; UNIT as in `add_region`
//   q_piece START STEP LEN LOCAL CARRY     CARRY, K, V: a buffer or -
//   kv_piece START STEP LEN LOCAL K V
//   leaf bias|mask|sinks|step0|… NAME BATCH HEAD ROW KEY LOCAL_ROWS
//   step N NUMBER LOW HIGH FIRST END       the number and the band of a step; FIRST, END: a buffer or -
//   at FIELD NAME                  a pointer of Params
//   set FIELD NUMBER               a number of Params
//   launch BLOCKS                  0 for a block per tile; then both lists of pieces are empty again
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
static struct {
    TensorMap q, k[MAX_PIECES], v[MAX_PIECES];
} maps;

static TensorMap tensor_map(const void* at, u32 columns, u32 rows, u32 matrices, u32 box_rows) {
    machine::Box box{(const u8*)at, 2, {columns, rows, matrices}, {2, (u64)columns * 2, (u64)columns * 2 * rows}, {64, box_rows, 1}};
    // As cuTensorMapEncodeTiled wants it.
    if ((uintptr_t)at % 16 || columns * 2 % 16) machine::fault("a tensor map whose address or stride 16 does not divide");
    if (!columns || !rows || !matrices || box_rows > 256) machine::fault("a tensor map of no or too many elements");
    TensorMap map{};
    static_assert(sizeof box <= sizeof map);
    memcpy(&map, &box, sizeof box);
    return map;
}

static void enter() { kernel.enter(&params, &maps); }

static void launch(int blocks, u64 seed) {
    params.tiles = 0;
    for (i32 i = 0; i < params.q_pieces; ++i)
        params.tiles += (params.q_piece[i].rows.len + kernel.rows - 1) / kernel.rows * params.batch * params.q_heads;
    if (kernel.has_maps) {
        maps.q = tensor_map(params.q, params.dk, params.q_rows, params.batch * params.q_heads, kernel.rows);
        for (i32 i = 0; i < params.kv_pieces; ++i) {
            const KvPiece& piece = params.kv_piece[i];
            if (!piece.rows.len) continue;
            maps.k[i] = tensor_map(piece.k, params.dk, piece.rows.len, params.batch * params.kv_heads, kernel.keys);
            maps.v[i] = tensor_map(piece.v, params.dv, piece.rows.len, params.batch * params.kv_heads, kernel.keys);
        }
    }
    machine::run(blocks ? blocks : params.tiles, kernel.threads, kernel.shared_bytes, seed, enter);
    params.q_pieces = params.kv_pieces = 0;
}

// Pairs of field and place.
struct Fields {
    std::map<std::string, i32*> integers{{"batch", &params.batch}, {"q_heads", &params.q_heads}, {"kv_heads", &params.kv_heads},
        {"q_rows", &params.q_rows}, {"dk", &params.dk}, {"dv", &params.dv}, {"head_group", &params.head_group},
        {"low", &params.low}, {"high", &params.high},
        {"scale", (i32*)&params.scale}, {"softcap", (i32*)&params.softcap}, {"fill", (i32*)&params.fill}, {"empty_row", (i32*)&params.empty_row}};
    std::map<std::string, const void**> pointers{{"q", &params.q}, {"out", (const void**)&params.out}, {"lse", (const void**)&params.lse},
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
        } else if (word == "kv_piece") {
            KvPiece& piece = params.kv_piece[params.kv_pieces++];
            in >> piece.rows.start >> piece.rows.step >> piece.rows.len >> piece.rows.local;
            piece.k = buffer();
            piece.v = buffer();
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
        } else if (word == "at") {
            in >> word;
            *fields.pointers.at(word) = buffer();
        } else if (word == "set") {
            i64 value;
            in >> word >> value;
            *fields.integers.at(word) = (i32)value;
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
