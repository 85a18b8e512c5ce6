// Convolutions of compiled segments, by Terra's own loops where they are faster than PyTorch's.
#pragma once

#include "graph/Event.h"

#include <ATen/core/stack.h>

namespace terra::frontend {

/// Runs `aten::convolution` or `aten::convolution_backward` of dense two-dimensional f32 images directly, where that was
/// measured to be faster for these sizes: takes the arguments from the stack and puts the results there. False: not done, the
/// stack is as it was. The results differ from eager's in the last bits: not for exact numerics.
bool convolve(const graph::Event &event, torch::jit::Stack &stack);

} // namespace terra::frontend
