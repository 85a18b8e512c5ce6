// Matrix products of compiled segments, by the faster of PyTorch's two libraries.
#pragma once

#include "graph/Event.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>

namespace terra::frontend {

/// Runs `aten::mm`, `aten::addmm` or `aten::bmm` of f32 matrices, where a library other than eager's was measured to be faster for
/// these sizes: takes the arguments from the stack and puts the result there. False: not done, the stack is as it was.
///
/// PyTorch calls MKL, whose kernels are several times slower than oneDNN's on processors of other makers; which one wins
/// is found out by using them in turns the first times. The results differ in the last bits: not for exact numerics.
bool multiply(const graph::Event &event, torch::jit::Stack &stack);

/// Whether `multiplyInto` is there, and computes in f32: not where PyTorch was built without oneDNN, or the program allows products of
/// less precision.
bool canMultiplyInto();
/// result (+)= a · b through oneDNN. f32 matrices without gaps, `result` by rows.
void multiplyInto(const at::Tensor &result, const at::Tensor &a, const at::Tensor &b, bool add);

} // namespace terra::frontend
