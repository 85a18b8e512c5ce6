#include "passes/Decompose.h"

#include "passes/ExprBuilder.h"

#include "llvm/ADT/TypeSwitch.h"

#include <limits>

using namespace mlir;

namespace terra::passes {

namespace {

/// Short names for building the arithmetic of one op.
class Math {
public:
  explicit Math(Operation *op) : b_(op), loc_(op->getLoc()), op_(op) {}

  Value operator()(StringRef name, ValueRange operands) {
    return makeElementwise(b_, loc_, ("terra." + name).str(), operands);
  }
  Value number(double x) { return makeConstant(b_, loc_, x, tensorType(op_->getOperand(0)).getElementType()); }
  Value sum(Value x, ArrayRef<int64_t> dims) { return reduce<ir::SumOp>(x, dims); }
  Value maxOfNumbers(Value x, ArrayRef<int64_t> dims) { return reduce<ir::MaxOfNumbersOp>(x, dims); }
  Value mean(Value x, ArrayRef<int64_t> dims) {
    return (*this)("mul", {sum(x, dims), number(1.0 / double(count(x, dims)))});
  }
  Value reshape(Value x, ArrayRef<int64_t> shape) {
    if (tensorType(x).getShape() == shape)
      return x;
    return ir::ReshapeOp::create(b_, loc_, tensorType(x).clone(shape), x);
  }
  /// [C] as [1, C, 1, …]
  Value channels(Value x, int64_t rank) {
    SmallVector<int64_t> shape(rank, 1);
    shape[1] = tensorType(x).getNumElements();
    return reshape(x, shape);
  }
  static int64_t count(Value x, ArrayRef<int64_t> dims) {
    int64_t n = 1;
    for (int64_t d : dims)
      n *= tensorType(x).getDimSize(d);
    return n;
  }
  void replace(ArrayRef<Value> values) {
    for (auto [result, value] : llvm::zip(op_->getResults(), values)) {
      if (result.use_empty())
        continue;
      result.replaceAllUsesWith(reshape(value, tensorType(result).getShape()));
    }
    op_->erase();
  }

private:
  template <typename Op> Value reduce(Value x, ArrayRef<int64_t> dims) {
    SmallVector<int64_t> shape(tensorType(x).getShape());
    for (int64_t d : dims)
      shape[d] = 1;
    return Op::create(b_, loc_, tensorType(x).clone(shape), x, dims);
  }

  OpBuilder b_;
  Location loc_;
  Operation *op_;
};

SmallVector<int64_t> range(int64_t from, int64_t to) {
  SmallVector<int64_t> dims;
  for (int64_t d = from; d < to; ++d)
    dims.push_back(d);
  return dims;
}

SmallVector<int64_t> allButChannels(int64_t rank) {
  SmallVector<int64_t> dims = range(0, rank);
  dims.erase(dims.begin() + 1);
  return dims;
}

void expand(Math m, ir::MeanOp op) { m.replace({m.mean(op.getInput(), op.getDims())}); }

void expand(Math m, ir::VarOp op) {
  Value mean = m.mean(op.getInput(), op.getDims());
  Value centred = m("sub", {op.getInput(), mean});
  double n = double(Math::count(op.getInput(), op.getDims())), correction = op.getCorrection().convertToDouble();
  Value squares = m.sum(m("mul", {centred, centred}), op.getDims());
  m.replace({m("div", {squares, m.number(std::max(0.0, n - correction))}), mean});
}

// The softmaxes shift by a maximum that may be anything where there is a NaN: the sum is NaN then, whatever the shift. The sum is
// at least 1, so that dividing by it is multiplying by its reciprocal.

void expand(Math m, ir::SoftmaxOp op) {
  SmallVector<int64_t> dim{int64_t(op.getDim())};
  Value e = m("exp", {m("sub", {op.getInput(), m.maxOfNumbers(op.getInput(), dim)})});
  m.replace({m("mul", {e, m("reciprocal", {m.sum(e, dim)})})});
}

void expand(Math m, ir::SafeSoftmaxOp op) {
  SmallVector<int64_t> dim{int64_t(op.getDim())};
  Value max = m.maxOfNumbers(op.getInput(), dim);
  // Where all is -inf: exp(-inf - 0) is 0, and so is the sum.
  Value shift = m("where", {m("eq", {max, m.number(-std::numeric_limits<double>::infinity())}), m.number(0), max});
  Value e = m("exp", {m("sub", {op.getInput(), shift})});
  Value sum = m.sum(e, dim);
  Value divisor = m("where", {m("eq", {sum, m.number(0)}), m.number(1), sum});
  m.replace({m("mul", {e, m("reciprocal", {divisor})})});
}

void expand(Math m, ir::LogSoftmaxOp op) {
  SmallVector<int64_t> dim{int64_t(op.getDim())};
  Value shifted = m("sub", {op.getInput(), m.maxOfNumbers(op.getInput(), dim)});
  m.replace({m("sub", {shifted, m("log", {m.sum(m("exp", {shifted}), dim)})})});
}

void expand(Math m, ir::SoftmaxBackwardOp op) {
  SmallVector<int64_t> dim{int64_t(op.getDim())};
  Value product = m("mul", {op.getGrad(), op.getOutput()});
  m.replace({m("sub", {product, m("mul", {op.getOutput(), m.sum(product, dim)})})});
}

void expand(Math m, ir::LogSoftmaxBackwardOp op) {
  SmallVector<int64_t> dim{int64_t(op.getDim())};
  m.replace({m("sub", {op.getGrad(), m("mul", {m("exp", {op.getOutput()}), m.sum(op.getGrad(), dim)})})});
}

void expand(Math m, ir::LayerNormOp op) {
  int64_t rank = tensorType(op.getInput()).getRank();
  SmallVector<int64_t> dims = range(rank - int64_t(op.getAxes()), rank);
  Value mean = m.mean(op.getInput(), dims);
  Value centred = m("sub", {op.getInput(), mean});
  Value variance = m.mean(m("mul", {centred, centred}), dims);
  Value rstd = m("rsqrt", {m("add", {variance, m.number(op.getEps().convertToDouble())})});
  Value y = m("mul", {centred, rstd});
  if (op.getWeight())
    y = m("mul", {y, op.getWeight()});
  if (op.getBias())
    y = m("add", {y, op.getBias()});
  m.replace({y, mean, rstd});
}

void expand(Math m, ir::LayerNormBackwardOp op) {
  int64_t rank = tensorType(op.getInput()).getRank(), rows = rank - int64_t(op.getAxes());
  SmallVector<int64_t> inner = range(rows, rank), outer = range(0, rows);
  SmallVector<int64_t> stats(tensorType(op.getInput()).getShape());
  for (int64_t d : inner)
    stats[d] = 1;
  Value mean = m.reshape(op.getMean(), stats), rstd = m.reshape(op.getRstd(), stats);
  Value normalised = m("mul", {m("sub", {op.getInput(), mean}), rstd});
  Value grad = op.getWeight() ? m("mul", {op.getGrad(), op.getWeight()}) : op.getGrad();
  // dx = rstd * (g - mean(g) - x̂ * mean(g * x̂)), g = dy * weight
  Value centred = m("sub", {grad, m.mean(grad, inner)});
  Value projected = m("mul", {normalised, m.mean(m("mul", {grad, normalised}), inner)});
  m.replace({m("mul", {m("sub", {centred, projected}), rstd}), m.sum(m("mul", {op.getGrad(), normalised}), outer),
             m.sum(op.getGrad(), outer)});
}

void expand(Math m, ir::BatchNormOp op) {
  int64_t rank = tensorType(op.getInput()).getRank();
  SmallVector<int64_t> dims = allButChannels(rank);
  double n = double(Math::count(op.getInput(), dims));
  Value mean = m.mean(op.getInput(), dims);
  Value centred = m("sub", {op.getInput(), mean});
  Value squares = m.sum(m("mul", {centred, centred}), dims);
  Value variance = m("mul", {squares, m.number(1 / n)});
  Value rstd = m("rsqrt", {m("add", {variance, m.number(op.getEps().convertToDouble())})});
  Value y = m("mul", {centred, rstd});
  if (op.getWeight())
    y = m("mul", {y, m.channels(op.getWeight(), rank)});
  if (op.getBias())
    y = m("add", {y, m.channels(op.getBias(), rank)});
  m.replace({y, mean, rstd, m("div", {squares, m.number(n - 1)})});
}

void expand(Math m, ir::BatchNormBackwardOp op) {
  int64_t rank = tensorType(op.getInput()).getRank();
  SmallVector<int64_t> dims = allButChannels(rank);
  Value mean = m.channels(op.getMean(), rank), rstd = m.channels(op.getRstd(), rank);
  Value centred = m("sub", {op.getInput(), mean});
  Value sum = m.sum(op.getGrad(), dims);
  Value dot = m.sum(m("mul", {op.getGrad(), centred}), dims);
  // dx = (dy - mean(dy) - (x - mean) * rstd² * dot / n) * rstd * weight
  Value scale = m.number(1.0 / double(Math::count(op.getInput(), dims)));
  Value slope = m("mul", {m("mul", {dot, scale}), m("mul", {rstd, rstd})});
  Value dx = m("sub", {m("sub", {op.getGrad(), m("mul", {centred, slope})}), m("mul", {sum, scale})});
  dx = m("mul", {dx, op.getWeight() ? m("mul", {rstd, m.channels(op.getWeight(), rank)}) : rstd});
  m.replace({dx, m("mul", {dot, rstd}), sum});
}

} // namespace

bool decomposeStructured(Operation *op) {
  bool known = true;
  llvm::TypeSwitch<Operation *>(op)
      .Case<ir::MeanOp, ir::VarOp, ir::SoftmaxOp, ir::SafeSoftmaxOp, ir::LogSoftmaxOp, ir::SoftmaxBackwardOp,
            ir::LogSoftmaxBackwardOp, ir::LayerNormOp, ir::LayerNormBackwardOp, ir::BatchNormOp,
            ir::BatchNormBackwardOp>([](auto typed) { expand(Math(typed), typed); })
      .Default([&](Operation *) { known = false; });
  return known;
}

} // namespace terra::passes
