// From a kernel's text to a library for this machine.
#pragma once

#include <string>

namespace standin {

// Where this library lies, with what it needs to compile.
std::string own_folder();
// The library of a text, compiled unless it is there; empty if it does not compile. `log`: what the compiler said.
std::string library_of(const std::string& text, std::string& log);

// What NVRTC hands to the driver: a line with the architecture and the number of bytes, then the text.
std::string image_of(const std::string& architecture, const std::string& text);
// False if it is none.
bool read_image(const void* image, std::string& architecture, std::string& text);

}  // namespace standin
