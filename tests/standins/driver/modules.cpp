// Modules, their kernels, and what a launch is.

#include <dlfcn.h>
#include <string.h>

#include "machine.h"
#include "module.h"
#include "standin.h"
#include "text.h"

namespace standin {

struct Module {
    std::string path;
    const Entry* entries;
    bool bf16;
};

struct Function {
    std::shared_ptr<Module> module;
    const Entry* entry;
    int shared_most = 48 << 10;
};

static std::map<void*, std::shared_ptr<Module>>& modules() {
    static auto* all = new std::map<void*, std::shared_ptr<Module>>;
    return *all;
}
static std::map<const void*, std::unique_ptr<Function>>& functions() {
    static auto* all = new std::map<const void*, std::unique_ptr<Function>>;
    return *all;
}

std::string architecture() {
    const char* given = setting("ARCH");
    return given ? given : "sm_90a";
}

int load_module(void** module, const void* image) {
    std::string made_for, source, log;
    if (!read_image(image, made_for, source)) {
        fprintf(stderr, "stand-in: cuModuleLoadData: this is no image of the stand-in of NVRTC\n");
        return 200;
    }
    // Code for the first of a family, without a letter, runs on all of it.
    const bool family = made_for == "sm_100" || made_for == "sm_120";
    if (made_for != architecture() && !(family && architecture().compare(0, 5, made_for, 0, 5) == 0)) {
        fprintf(stderr, "stand-in: cuModuleLoadData: an image for %s on a device of %s\n", made_for.c_str(), architecture().c_str());
        return 209;
    }
    const std::string path = library_of(source, log);
    if (path.empty()) {
        fprintf(stderr, "stand-in: cuModuleLoadData: %s", log.c_str());
        return 218;
    }
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) finding("cuModuleLoadData: %s", dlerror());
    auto m = std::make_shared<Module>();
    m->path = path;
    m->entries = (const Entry*)dlsym(library, "standin_entries");
    const bool* bf16 = (const bool*)dlsym(library, "standin_bf16");
    if (!m->entries || !bf16) finding("%s has no kernels", path.c_str());
    m->bf16 = *bf16;
    *module = m.get();
    modules()[m.get()] = m;
    return 0;
}

int unload_module(void* module) {
    auto at = modules().find(module);
    if (at == modules().end()) return 400;
    // Launches that wait keep what they need; who launches again is told.
    for (auto f = functions().begin(); f != functions().end();) f = f->second->module == at->second ? functions().erase(f) : std::next(f);
    modules().erase(at);
    return 0;
}

int find_function(Function** function, void* module, const char* name) {
    auto at = modules().find(module);
    if (at == modules().end()) return 400;
    for (const Entry* e = at->second->entries; e->name; ++e) {
        if (strcmp(e->name, name)) continue;
        auto f = std::make_unique<Function>();
        f->module = at->second, f->entry = e;
        *function = f.get();
        functions()[f.get()] = std::move(f);
        return 0;
    }
    return 500;
}

bool is_function(const void* handle) { return functions().count(handle); }

int shared_limit() {
    const std::string a = architecture();
    return a == "sm_80" || a == "sm_87" ? 163 << 10 : a == "sm_86" || a == "sm_89" || a == "sm_88" || a == "sm_120" || a == "sm_121" ? 99 << 10 : 227 << 10;
}

int set_attribute(Function* f, int attribute, int value) {
    if (attribute != 8) finding("cuFuncSetAttribute: attribute %d is none that the stand-in knows", attribute);
    if (value < 0 || value > shared_limit()) return 1;
    f->shared_most = value;
    return 0;
}

int get_attribute(Function* f, int attribute, int* value) {
    switch (attribute) {
        case 0: *value = 1024; return 0;
        case 1: *value = 0; return 0;
        case 8: *value = f->shared_most; return 0;
    }
    finding("cuFuncGetAttribute: attribute %d is none that the stand-in knows", attribute);
}

// ---- launches ------------------------------------------------------------------------------------------------------------

static const Entry* running;
static void** running_arguments;
static std::string fault_text;

static void keep_fault(const char* text) {
    fault_text = text;
    machine::abandon();
}

static void enter() { running->call(running_arguments); }

// As a driver would call it.
static int code_of(const std::string& fault) {
    auto has = [&](const char* what) { return fault.find(what) != std::string::npos; };
    return has("outside of device memory") ? 700 : has("misaligned") || has("does not divide") ? 716 : has("deadlock") ? 702 : 719;
}

int launch(Stream* s, Function* f, const u32 (&grid)[3], const u32 (&block)[3], u32 shared, void** arguments) {
    const Entry* e = f->entry;
    if (!grid[0] || !grid[1] || !grid[2] || !block[0] || !block[1] || !block[2]) return 1;
    if (grid[1] != 1 || grid[2] != 1 || block[1] != 1 || block[2] != 1) finding("a launch of %s in more than one dimension", e->name);
    if (block[0] > 1024 || grid[0] > 0x7fffffff || (int)shared > f->shared_most) {
        fprintf(stderr, "stand-in: a launch of %s by %u threads with %u bytes of shared memory, of which %d are allowed\n", e->name, block[0], shared,
                f->shared_most);
        return 1;
    }
    if (e->most_threads && (int)block[0] > e->most_threads) {
        fprintf(stderr, "stand-in: a launch of %s by %u threads, which was compiled for %d\n", e->name, block[0], e->most_threads);
        return 1;
    }
    if (block[0] % machine::WARP) finding("a launch of %s by %u threads, which are no whole warps", e->name, block[0]);
    // The arguments are taken now.
    auto bytes = std::make_shared<std::vector<std::vector<u8>>>();
    for (int i = 0; i < e->count; ++i) {
        if (!arguments || !arguments[i]) return 1;
        // Tensor maps want to lie at multiples of 64.
        std::vector<u8> one(e->sizes[i] + 64);
        memcpy(one.data(), arguments[i], e->sizes[i]);
        bytes->push_back(std::move(one));
    }
    const u32 blocks = grid[0], threads = block[0];
    auto module = f->module;
    auto run = [=] {
        std::vector<void*> list;
        std::vector<std::vector<u8>> aligned(bytes->size());
        for (size_t i = 0; i < bytes->size(); ++i) {
            const std::vector<u8>& from = (*bytes)[i];
            aligned[i].resize(from.size() + 64);
            u8* at = (u8*)(((u64)aligned[i].data() + 63) / 64 * 64);
            memcpy(at, from.data(), from.size() - 64);
            list.push_back(at);
        }
        running = e, running_arguments = list.data();
        machine::elements_are_bf16 = module->bf16;
        machine::on_fault = keep_fault;
        machine::watches_blocks = !setting("QUICK");
        if (!machine::run((int)blocks, (int)threads, shared, seed() + random_below(1 << 20), enter)) throw Failure{code_of(fault_text), fault_text};
    };
    Work w{text("launch of %s, %u blocks,", e->name, blocks), run};
    w.reads_written_only = !setting("UNWRITTEN");
    return enqueue(s, std::move(w));
}

int encode_map(void* map, int type, u32 rank, u64 at, const u64* extents, const u64* strides, const u32* box, const u32* steps, int interleave,
               int swizzle, int fill) {
    if (type != 1 || rank != 3 || interleave != 0 || swizzle != 3 || fill != 0)
        finding("cuTensorMapEncodeTiled: type %d, rank %u, interleave %d, swizzle %d, fill %d are none that the stand-in knows", type, rank, interleave,
                swizzle, fill);
    machine::Box b{(const u8*)at, 2, {}, {}, {}};
    static_assert(sizeof b <= 128);
    if (at % 16 || at == 0) return 1;
    b.stride[0] = 2;
    for (u32 i = 0; i < rank; ++i) {
        if (!extents[i] || extents[i] > 1ull << 32 || !box[i] || box[i] > 256 || steps[i] != 1) return 1;
        if (i && (strides[i - 1] % 16 || strides[i - 1] >= 1ull << 40)) return 1;
        b.size[i] = (u32)extents[i], b.box[i] = box[i];
        if (i) b.stride[i] = strides[i - 1];
    }
    if (box[0] * 2 % 16 || box[0] * 2 > 128) return 1;
    memset(map, 0, 128);
    memcpy(map, &b, sizeof b);
    return 0;
}

}  // namespace standin
