// Which numbers of kernels are arguments: those that have differed between segments that are alike but for their sizes.
#pragma once

#include "codegen/Compiler.h"
#include "passes/Passes.h"

#include <memory>

namespace terra::codegen {

/// What is remembered of `segment`'s structure, for one compilation; null where all numbers are constants. The first segment of a
/// structure gets code for its own sizes; from the second on, what differs is an argument, and other sizes find the same code.
std::unique_ptr<passes::SizeMemory> numbersOf(const graph::Segment &segment, NumberChoice choice);

} // namespace terra::codegen
