// From a kernel's text to a library for this machine.
//
// The text is what NVRTC is given, but for the parts that hold assembly, which the machine of the kernels (cuda.h) has in C++:
// kernels/types.cuh, ptx.cuh, ptx_steps.cuh, ptx_time.cuh, ptx_hopper.cuh, as they lie in the stand-in's folder, and `Wgmma<N>` behind them. A
// library is named after its text, for the loader never loads a name twice.

#include "text.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

extern char** environ;

namespace standin {

std::string own_folder() {
    Dl_info info;
    if (!dladdr((void*)own_folder, &info)) return ".";
    char* whole = realpath(info.dli_fname, nullptr);
    std::string path = whole ? whole : info.dli_fname;
    free(whole);
    return path.substr(0, path.rfind('/'));
}

static std::string read_file(const std::string& path) {
    std::string out;
    if (FILE* f = fopen(path.c_str(), "r")) {
        char part[4096];
        for (size_t n; (n = fread(part, 1, sizeof part, f));) out.append(part, n);
        fclose(f);
    }
    return out;
}

static bool write_file(const std::string& path, const std::string& text) {
    FILE* f = fopen(path.c_str(), "w");
    if (!f) return false;
    bool done = fwrite(text.data(), 1, text.size(), f) == text.size();
    return !fclose(f) && done;
}

// FNV-1a, twice with other beginnings.
static std::string digest(const std::string& text) {
    unsigned long long a = 0xcbf29ce484222325, b = 0x9ae16a3b2f90404f;
    for (unsigned char c : text) a = (a ^ c) * 0x100000001b3, b = (b ^ c ^ 0x5a) * 0x100000001b3;
    char out[40];
    snprintf(out, sizeof out, "%016llx%016llx", a, b);
    return out;
}

static bool run(std::vector<std::string> arguments, const std::string& said) {
    std::vector<char*> list;
    for (std::string& a : arguments) list.push_back(&a[0]);
    list.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, said.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, 2, 1);
    // A preloaded library or our own folder is no business of the compiler's.
    std::vector<char*> environment;
    for (char** e = environ; *e; ++e)
        if (strncmp(*e, "LD_LIBRARY_PATH=", 16) && strncmp(*e, "LD_PRELOAD=", 11)) environment.push_back(*e);
    environment.push_back(nullptr);
    pid_t child;
    int status = -1;
    if (!posix_spawnp(&child, list[0], &actions, nullptr, list.data(), environment.data()))
        while (waitpid(child, &status, 0) < 0) {
        }
    posix_spawn_file_actions_destroy(&actions);
    return status == 0;
}

static void cut(std::string& text, const std::string& part) {
    size_t at = part.empty() ? std::string::npos : text.find(part);
    if (at != std::string::npos) text.erase(at, part.size());
}

// The text as a C++ compiler takes it; empty, with the reason in `log`, where it is not one of ours.
static std::string source_of(std::string text, const std::string& folder, std::string& log) {
    const std::string contract = read_file(folder + "/contract.cuh");
    for (const char* name : {"types.cuh", "ptx.cuh", "ptx_steps.cuh", "ptx_time.cuh", "ptx_hopper.cuh"}) cut(text, read_file(folder + "/" + name));
    const size_t products = text.find("template <int N> struct Wgmma;\n"), end = text.find(contract);
    if (products != std::string::npos && end != std::string::npos && products < end) text.erase(products, end - products);
    if (text.find("asm volatile") != std::string::npos || text.find("asm(\"") != std::string::npos) {
        log = "stand-in: the text holds assembly that is none of kernels/ptx*.cuh\n";
        return "";
    }
    // NVRTC's name for the place of a field.
    const std::string place = "__INTADDR__(&((";
    for (size_t at = 0; (at = text.find(place, at)) != std::string::npos;) {
        const size_t star = text.find("*)0)->", at), close = text.find(')', star + 6);
        if (star == std::string::npos || close == std::string::npos) break;
        const std::string type = text.substr(at + place.size(), star - at - place.size()), field = text.substr(star + 6, close - star - 6);
        text.replace(at, close - at, "__builtin_offsetof(" + type + ", " + field);
    }
    std::string entries;
    const std::string mark = "extern \"C\" __global__ void";
    for (size_t at = 0; (at = text.find(mark, at)) != std::string::npos;) {
        at += mark.size();
        size_t open = text.find('(', at);
        // A bound on the threads of a block stands before the name.
        std::string bound = "0";
        size_t bounds = text.find("__launch_bounds__", at);
        if (bounds != std::string::npos && bounds < open) {
            int depth = 0;
            size_t i = open;
            for (; i < text.size(); ++i) {
                depth += text[i] == '(' ? 1 : text[i] == ')' ? -1 : 0;
                if (!depth) break;
            }
            bound = text.substr(open + 1, i - open - 1);
            at = i + 1, open = text.find('(', at);
        }
        std::string name;
        for (size_t i = at; i < open && i < text.size(); ++i)
            if (!strchr(" \n\t", text[i])) name += text[i];
        entries += "    standin::Caller<" + name + ">::entry(\"" + name + "\", standin::first(" + bound + ")),\n";
    }
    if (entries.empty()) {
        log = "stand-in: the text has no kernel\n";
        return "";
    }
    return "#include \"module.h\"\n#include \"cuda.h\"\n#define memcpy seen_memcpy\n#define memset seen_memset\n#undef INFINITY\n#undef NAN\n"
           "#line 1 \"kernel.cu\"\n" +
           text + "\n#define SHOWN extern \"C\" __attribute__((visibility(\"default\")))\nSHOWN const standin::Entry standin_entries[] = {\n" + entries +
           "    {nullptr, nullptr, 0, 0, {}}};\nSHOWN const bool standin_bf16 = ELEMENT_BF16;\n";
}

std::string library_of(const std::string& text, std::string& log) {
    const std::string folder = own_folder();
    const std::string source = source_of(text, folder, log);
    if (source.empty()) return "";
    const char* named = getenv("CXX");
    const std::string compiler = named && *named ? named : "c++";
    const std::string modules = folder + "/modules", path = modules + "/" + digest(source + "\n" + compiler);
    const std::string library = path + ".so";
    if (access(library.c_str(), R_OK) == 0) return library;
    mkdir(modules.c_str(), 0700);
    // Whoever else makes it makes the same: each in files of his own, which appear as a whole.
    const std::string mine = path + "." + std::to_string(getpid());
    if (!write_file(mine + ".cpp", source)) {
        log = "stand-in: cannot write " + mine + ".cpp\n";
        return "";
    }
    bool made = run({compiler, "-std=c++17", "-w", "-ffp-contract=off", "-O1", "-fsanitize=thread", "-fno-exceptions", "-fPIC", "-fno-gnu-unique",
                     "-fvisibility=hidden", "-I" + folder, "-c", mine + ".cpp", "-o", mine + ".o"},
                    mine + ".log") &&
                run({compiler, "-shared", "-Wl,-Bsymbolic", "-o", mine + ".so", mine + ".o", folder + "/libcuda.so.1", "-lm"}, mine + ".log") &&
                rename((mine + ".so").c_str(), library.c_str()) == 0;
    log = read_file(mine + ".log");
    if (!made && log.empty()) log = "stand-in: `" + compiler + "` does not run\n";
    for (const char* end : {".cpp", ".o", ".so", ".log"})
        if (made || strcmp(end, ".cpp")) unlink((mine + end).c_str());
    return made ? library : "";
}

static const char MAGIC[] = "annulus stand-in of a cubin ";

std::string image_of(const std::string& architecture, const std::string& text) {
    return MAGIC + architecture + " " + std::to_string(text.size()) + "\n" + text;
}

bool read_image(const void* image, std::string& architecture, std::string& text) {
    const char* at = (const char*)image;
    if (strncmp(at, MAGIC, sizeof MAGIC - 1)) return false;
    char name[32];
    size_t bytes;
    int read = 0;
    if (sscanf(at + sizeof MAGIC - 1, "%31s %zu%n", name, &bytes, &read) != 2) return false;
    architecture = name;
    text.assign(at + sizeof MAGIC - 1 + read + 1, bytes);
    return true;
}

}  // namespace standin
