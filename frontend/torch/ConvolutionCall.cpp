#include "frontend/torch/ConvolutionCall.h"

namespace terra::frontend {

using runtime::Convolution;
using Part = runtime::DirectConvolution::Part;

std::optional<ConvolutionCall> convolutionCallOf(const graph::Event &event, const torch::jit::Stack &stack) {
  ConvolutionCall call;
  size_t at;
  if (event.op->name == "aten::convolution") {
    call.images = stack[0].toTensor();
    call.weight = stack[1].toTensor();
    call.bias = stack[2].isTensor() ? stack[2].toTensor() : at::Tensor();
    at = 3;
  } else if (event.op->name == "aten::convolution_backward") {
    call.gradient = stack[0].toTensor();
    call.images = stack[1].toTensor();
    call.weight = stack[2].toTensor();
    if (!stack[3].isNone())
      call.biasSizes = stack[3].toIntVector();
    c10::List<bool> mask = stack[10].toBoolList();
    call.mask = {mask[0], mask[1], mask[2]};
    at = 4;
  } else {
    return std::nullopt;
  }
  call.stride = stack[at].toIntVector();
  call.padding = stack[at + 1].toIntVector();
  call.dilation = stack[at + 2].toIntVector();
  call.transposed = stack[at + 3].toBool();
  call.outputPadding = stack[at + 4].toIntVector();
  call.groups = stack[at + 5].toInt();
  return call;
}

namespace {

bool isDense(const at::Tensor &t) {
  return t.dim() == 4 && t.scalar_type() == at::kFloat && t.device().is_cpu() && t.layout() == at::kStrided &&
         t.is_contiguous() && t.numel() > 0 && !t.is_neg();
}

} // namespace

std::optional<Convolution> convolutionOf(const ConvolutionCall &call) {
  bool plain = isDense(call.images) && isDense(call.weight) && (!call.isBackward() || isDense(call.gradient)) &&
               call.stride.size() == 2 && call.padding.size() == 2 && call.dilation.size() == 2 && call.groups > 0 &&
               (!call.bias.defined() || (call.bias.scalar_type() == at::kFloat && call.bias.is_contiguous()));
  if (!plain)
    return std::nullopt;
  const at::Tensor &x = call.images, &w = call.weight;
  Convolution c{x.size(0), call.groups, w.size(1), w.size(0) / call.groups, {}, {}, {}, {}, {}, {}};
  for (size_t i : {0, 1}) {
    int64_t size = x.size(int64_t(i) + 2), kernel = w.size(int64_t(i) + 2), stride = call.stride[i];
    int64_t padding = call.padding[i], reach = call.dilation[i] * (kernel - 1);
    c.kernel[i] = kernel, c.stride[i] = stride, c.padding[i] = padding, c.dilation[i] = call.dilation[i];
    if (stride < 1 || call.dilation[i] < 1 || padding < 0)
      return std::nullopt;
    c.in[i] = call.transposed ? (size - 1) * stride - 2 * padding + reach + 1 + call.outputPadding[i] : size;
    c.out[i] = call.transposed ? size : (size + 2 * padding - reach - 1) / stride + 1;
  }
  return c;
}

ConvolutionPart forwardPart(const ConvolutionCall &call) {
  return {call.transposed ? Part::InputGradient : Part::Output, call.images, call.weight, {}, call.bias};
}

ConvolutionPart inputPart(const ConvolutionCall &call) {
  return {call.transposed ? Part::Output : Part::InputGradient, call.gradient, call.weight, {}, {}};
}

ConvolutionPart weightPart(const ConvolutionCall &call) {
  if (call.transposed)
    return {Part::WeightGradient, call.gradient, call.weight, call.images, {}};
  return {Part::WeightGradient, call.images, call.weight, call.gradient, {}};
}

} // namespace terra::frontend
