// The compiler's code in memory. Compiling touches tens of megabytes of it, a little at a time.
#pragma once

namespace terra::codegen {

/// Ends a phase of the compiler: gives the pages of this library's code and constants back to the system. Those that are used
/// again come back from its file cache, at the cost of a minor page fault for 16 of them. Thread-safe.
void giveBackCode();

} // namespace terra::codegen
