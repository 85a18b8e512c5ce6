#include "frontend/torch/ConvolutionWays.h"

#include "frontend/torch/MatrixProduct.h"
#include "runtime/kernels/Columns.h"

#include <ATen/Parallel.h>

namespace terra::frontend {

using runtime::Columns;
using runtime::Convolution;
using runtime::DirectConvolution;
using Part = DirectConvolution::Part;

namespace {

constexpr int64_t kMostDirectWork = int64_t(1)
                                    << 28; ///< multiplications: above, the library's blocked layouts have paid
constexpr int64_t kLeastProductWork = int64_t(1) << 18; ///< below, calling a library costs more than the work

void parallelFor(int64_t extent, int64_t grain, const std::function<void(int64_t, int64_t)> &body) {
  at::parallel_for(0, extent, grain, body);
}

const float *data(const at::Tensor &t) { return t.defined() ? t.const_data_ptr<float>() : nullptr; }

at::Tensor emptyImages(Part part, const Convolution &c, const at::Tensor &like) {
  bool output = part == Part::Output;
  const Convolution::Pair &size = output ? c.out : c.in;
  return at::empty({c.batch, c.groups * (output ? c.outChannels : c.inChannels), size[0], size[1]}, like.options());
}

at::Tensor emptyWeight(const ConvolutionPart &p) { return at::empty_like(p.weight, at::MemoryFormat::Contiguous); }

at::Tensor direct(const ConvolutionPart &p, const Convolution &c) {
  DirectConvolution direct(p.part, c);
  at::Tensor scratch = at::empty({int64_t(direct.scratchFloats())}, p.weight.options()), result;
  bool done;
  if (p.part == Part::WeightGradient) {
    result = emptyWeight(p);
    done = direct.runWeight(data(p.gradient), data(p.images), result.mutable_data_ptr<float>(),
                            scratch.mutable_data_ptr<float>(), parallelFor);
  } else {
    result = emptyImages(p.part, c, p.images);
    done = direct.run(data(p.images), data(p.weight), data(p.bias), result.mutable_data_ptr<float>(),
                      scratch.mutable_data_ptr<float>(), parallelFor);
  }
  return done ? result : at::Tensor();
}

bool isPadded(const Convolution &c) { return c.padding[0] || c.padding[1]; }
bool isPoint(const Convolution &c) { return c.kernel[0] == 1 && c.kernel[1] == 1 && !isPadded(c); }
bool strides(const Convolution &c) { return c.stride[0] > 1 || c.stride[1] > 1; }
/// The kernel covers the image: one output, and the image itself is its column.
bool coversImage(const Convolution &c) {
  return c.kernel == c.in && c.out[0] == 1 && c.out[1] == 1 && !isPadded(c) && c.dilation[0] == 1 && c.dilation[1] == 1;
}

at::Tensor weightMatrix(const ConvolutionPart &p) { return p.weight.view({p.weight.size(0), -1}); }

/// images[n] = weights · source[n], which are matrices [channels, height · width].
at::Tensor byImages(const ConvolutionPart &p, const Convolution &c) {
  at::Tensor images = p.images.view({c.batch, p.images.size(1), -1});
  if (p.part == Part::WeightGradient) {
    at::Tensor result = emptyWeight(p), sum = result.view({c.outChannels, c.inChannels});
    at::Tensor gradients = p.gradient.view({c.batch, c.outChannels, -1});
    for (int64_t n = 0; n < c.batch; ++n)
      multiplyInto(sum, gradients[n], images[n].t(), /*add=*/n > 0);
    return result;
  }
  at::Tensor result = emptyImages(p.part, c, p.images), made = result.view({c.batch, result.size(1), -1});
  at::Tensor weight = p.part == Part::Output ? weightMatrix(p) : weightMatrix(p).t();
  for (int64_t n = 0; n < c.batch; ++n)
    multiplyInto(made[n], weight, images[n], /*add=*/false);
  return p.bias.defined() ? result.add_(p.bias.view({-1, 1, 1})) : result;
}

/// Every image is one row of a matrix.
at::Tensor byRows(const ConvolutionPart &p, const Convolution &c) {
  at::Tensor images = p.images.view({c.batch, -1});
  if (p.part == Part::WeightGradient) {
    at::Tensor result = emptyWeight(p);
    multiplyInto(result.view({c.outChannels, -1}), p.gradient.view({c.batch, -1}).t(), images, /*add=*/false);
    return result;
  }
  at::Tensor result = emptyImages(p.part, c, p.images);
  at::Tensor weight = p.part == Part::Output ? weightMatrix(p).t() : weightMatrix(p);
  multiplyInto(result.view({c.batch, -1}), images, weight, /*add=*/false);
  return p.bias.defined() ? result.add_(p.bias.view({-1, 1, 1})) : result;
}

at::Tensor outputByColumns(const ConvolutionPart &p, const Convolution &c, const Columns &columns) {
  at::Tensor inputs = at::empty({columns.rows(), columns.columns()}, p.images.options());
  columns.gather(data(p.images), inputs.mutable_data_ptr<float>(), parallelFor);
  at::Tensor made = at::empty({c.outChannels, columns.columns()}, p.images.options());
  multiplyInto(made, weightMatrix(p), inputs, /*add=*/false);
  at::Tensor result = emptyImages(p.part, c, p.images);
  columns.toImages(data(made), data(p.bias), result.mutable_data_ptr<float>(), parallelFor);
  return result;
}

at::Tensor gradientByColumns(const ConvolutionPart &p, const Convolution &c, const Columns &columns) {
  const at::Tensor &from = p.part == Part::WeightGradient ? p.gradient : p.images;
  at::Tensor gradients = at::empty({c.outChannels, columns.columns()}, from.options());
  columns.fromImages(data(from), gradients.mutable_data_ptr<float>(), parallelFor);
  at::Tensor inputs = at::empty({columns.rows(), columns.columns()}, from.options()), result;
  if (p.part == Part::WeightGradient) {
    columns.gather(data(p.images), inputs.mutable_data_ptr<float>(), parallelFor);
    result = emptyWeight(p);
    multiplyInto(result.view({c.outChannels, -1}), gradients, inputs.t(), /*add=*/false);
    return result;
  }
  multiplyInto(inputs, weightMatrix(p).t(), gradients, /*add=*/false);
  result = emptyImages(p.part, c, p.images);
  columns.scatter(data(inputs), result.mutable_data_ptr<float>(), parallelFor);
  if (p.bias.defined())
    result.add_(p.bias.view({-1, 1, 1}));
  return result;
}

/// Columns are kept small next to what the library's reordered copies take.
bool columnsFit(const Convolution &c) {
  int64_t columns = c.inChannels * c.kernel[0] * c.kernel[1] * c.batch * c.out[0] * c.out[1];
  int64_t weights = c.inChannels * c.outChannels * c.kernel[0] * c.kernel[1];
  int64_t images = c.batch * (c.inChannels * c.in[0] * c.in[1] + c.outChannels * c.out[0] * c.out[1]);
  return columns <= weights + images;
}

at::Tensor byColumns(const ConvolutionPart &p, const Convolution &c) {
  if (coversImage(c))
    return byRows(p, c);
  Columns columns(c);
  at::Tensor result = p.part == Part::Output ? outputByColumns(p, c, columns) : gradientByColumns(p, c, columns);
  // Infinity times the zeros of the padding.
  bool unsure = isPadded(c) && p.part != Part::InputGradient && !at::isfinite(result.sum()).item<bool>();
  return unsure ? at::Tensor() : result;
}

} // namespace

bool supports(ConvolutionWay way, Part part, const Convolution &c) {
  if (way == ConvolutionWay::Direct)
    return c.multiplications() <= kMostDirectWork && DirectConvolution::supports(part, c);
  if (!canMultiplyInto() || c.groups != 1 || c.multiplications() < kLeastProductWork)
    return false;
  if (way == ConvolutionWay::Images)
    return isPoint(c) && !strides(c) && !coversImage(c);
  return columnsFit(c);
}

at::Tensor compute(ConvolutionWay way, const ConvolutionPart &part, const Convolution &sizes) {
  switch (way) {
  case ConvolutionWay::Direct:
    return direct(part, sizes);
  case ConvolutionWay::Images:
    return byImages(part, sizes);
  case ConvolutionWay::Columns:
    return byColumns(part, sizes);
  }
  return {};
}

} // namespace terra::frontend
