#pragma once

#include <string>

namespace terra::dump {

/// Runs Graphviz: `dot` source → SVG in the file `output`, or on standard output when that is empty. Throws
/// std::runtime_error when the program is missing or fails.
void writeSvg(const std::string &source, const std::string &output);

} // namespace terra::dump
