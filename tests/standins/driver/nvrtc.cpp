// The stand-in of NVRTC: the text is compiled for this machine, and handed on as it is, with a mark of the stand-in.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "text.h"

namespace {
struct Program {
    std::string text, log, image;
};
}  // namespace

// As that of the driver: 13000 is 13.0.
static int version() {
    const char* given = getenv("ANNULUS_STANDINS_NVRTC");
    return given ? atoi(given) : 13000;
}

// Each architecture with the first version that knows it.
static const int KNOWN[][2] = {{80, 0}, {86, 0}, {87, 0}, {88, 13000}, {89, 0}, {90, 0}, {100, 12080}, {103, 12090}, {110, 13000}, {120, 12080}, {121, 12090}};

static std::vector<int> known() {
    std::vector<int> all;
    for (const auto& k : KNOWN)
        if (k[1] <= version()) all.push_back(k[0]);
    return all;
}

extern "C" {

int nvrtcVersion(int* major, int* minor) {
    *major = version() / 1000, *minor = version() % 1000 / 10;
    return 0;
}

int nvrtcGetNumSupportedArchs(int* count) {
    *count = (int)known().size();
    return 0;
}

int nvrtcGetSupportedArchs(int* archs) {
    for (int k : known()) *archs++ = k;
    return 0;
}

int nvrtcCreateProgram(Program** program, const char* text, const char*, int headers, const char* const*, const char* const*) {
    if (!text || headers) return 3;
    *program = new Program{text, "", ""};
    return 0;
}

int nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return 0;
}

int nvrtcCompileProgram(Program* p, int count, const char* const* options) {
    std::string architecture;
    const std::string given = "--gpu-architecture=";
    for (int i = 0; i < count; ++i) {
        const std::string option = options[i];
        if (option.compare(0, given.size(), given) == 0) {
            architecture = option.substr(given.size());
        } else if (option != "--std=c++17" && option.compare(0, 16, "--ptxas-options=")) {
            p->log = "stand-in: the option " + option + " is none that it knows\n";
            return 5;
        }
    }
    bool is_known = false;
    for (int k : known()) is_known |= architecture.compare(0, 3 + std::to_string(k).size(), "sm_" + std::to_string(k)) == 0;
    if (!is_known) {
        p->log = "stand-in: the architecture " + architecture + " is none that it knows\n";
        return 5;
    }
    if (standin::library_of(p->text, p->log).empty()) return 6;
    p->image = standin::image_of(architecture, p->text);
    return 0;
}

int nvrtcGetProgramLogSize(Program* p, size_t* bytes) {
    *bytes = p->log.size() + 1;
    return 0;
}

int nvrtcGetProgramLog(Program* p, char* log) {
    memcpy(log, p->log.c_str(), p->log.size() + 1);
    return 0;
}

int nvrtcGetCUBINSize(Program* p, size_t* bytes) {
    *bytes = p->image.size();
    return 0;
}

int nvrtcGetCUBIN(Program* p, char* image) {
    memcpy(image, p->image.data(), p->image.size());
    return 0;
}

const char* nvrtcGetErrorString(int code) {
    return code == 0 ? "NVRTC_SUCCESS" : code == 5 ? "NVRTC_ERROR_INVALID_OPTION" : code == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR";
}

#define OTHER(NAME)                                                                                     \
    int NAME() {                                                                                        \
        static const char text[] = "stand-in: " #NAME " is none of the calls that the stand-in knows\n"; \
        (void)!write(2, text, sizeof text - 1);                                                         \
        _exit(97);                                                                                      \
    }
OTHER(nvrtcAddNameExpression)
OTHER(nvrtcGetBundledHeadersInfo)
OTHER(nvrtcGetLTOIR)
OTHER(nvrtcGetLTOIRSize)
OTHER(nvrtcGetLoweredName)
OTHER(nvrtcGetOptiXIR)
OTHER(nvrtcGetOptiXIRSize)
OTHER(nvrtcGetPTX)
OTHER(nvrtcGetPTXSize)
OTHER(nvrtcGetTileIR)
OTHER(nvrtcGetTileIRSize)
OTHER(nvrtcInstallBundledHeaders)
OTHER(nvrtcRemoveBundledHeaders)
}
