// Every other function of the driver's API: it names itself and ends the process. Where calls.cpp has a function, that one holds.

namespace standin {
[[noreturn]] void finding(const char* format, ...);
}

#define CALL(NAME) \
    extern "C" __attribute__((weak)) int NAME() { standin::finding("%s is none of the calls that the stand-in knows", #NAME); }
#include "names.inc"
