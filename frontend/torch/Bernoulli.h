// Dropout's random masks, drawn several times faster than by eager's kernel, to the same bits.
#pragma once

#include "graph/Event.h"

#include <ATen/core/stack.h>

namespace terra::frontend {

/// Runs `aten::bernoulli_.float` of a contiguous f32 tensor with the default generator, if eager's kernel draws the same numbers on
/// this machine (on some processors it uses another library; compared once a process): the stack holds the result then, and
/// the generator is where eager would have left it. False: not done, the stack is as it was.
///
/// Algorithm: MT19937 (Matsumoto and Nishimura, ACM TOMACS 8, 1998) in blocks of 624 that the compiler can vectorise; two outputs make
/// a uniform double of 53 bits, which is compared with p as an integer.
bool drawBernoulli(const graph::Event &event, torch::jit::Stack &stack);

} // namespace terra::frontend
