#include "tracer/Domain.h"

#include <cmath>
#include <limits>

namespace terra::tracer {

using graph::ArgKind;
using graph::Domain;

namespace {

bool isInteger(const ArgView &arg) { return arg.kind == ArgKind::Int || arg.kind == ArgKind::NumberInt; }

bool isNumber(const ArgView &arg) {
  return isInteger(arg) || arg.kind == ArgKind::Double || arg.kind == ArgKind::NumberDouble;
}

double number(const ArgView &arg) { return isInteger(arg) ? double(arg.scalar.i) : arg.scalar.d; }

struct Limits {
  double low, high;
};

template <class T> constexpr Limits limitsOf() {
  return {double(std::numeric_limits<T>::lowest()), double(std::numeric_limits<T>::max())};
}

Limits limitsOf(DType dtype) {
  switch (dtype) {
  case DType::UInt8:
    return limitsOf<uint8_t>();
  case DType::Int8:
    return limitsOf<int8_t>();
  case DType::Int16:
    return limitsOf<int16_t>();
  case DType::Int32:
    return limitsOf<int32_t>();
  case DType::Int64:
    return {-0x1p63, 0x1p63 - 1024}; // as doubles, whose step is 1024 there
  case DType::Float16:
    return {-65504, 65504};
  case DType::BFloat16:
    return {-0x1.fep127, 0x1.fep127};
  case DType::Float32:
  case DType::Complex64:
    return limitsOf<float>();
  default:
    return {-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  }
}

/// PyTorch refuses to convert a scalar to a type that cannot hold it; infinities and NaN are floating point's own.
bool fits(const ArgView &arg, DType dtype) {
  if (isInteger(arg) && dtype == DType::Int64)
    return true;
  double value = number(arg);
  if (!std::isfinite(value))
    return !isIntegral(dtype);
  Limits limits = limitsOf(dtype);
  return value >= limits.low && value <= limits.high;
}

bool onIntegers(const graph::Event &event) {
  for (const graph::Operand &operand : event.inputs)
    if (isFloatingPoint(operand.meta.dtype) || isComplex(operand.meta.dtype))
      return false;
  return true;
}

const ArgView *argNamed(const graph::Event &event, const CallView &call, std::string_view name) {
  for (uint32_t i = 0; i < call.numArgs; ++i)
    if (event.op->params[i].name == name && isNumber(call.args[i]))
      return &call.args[i];
  return nullptr;
}

/// The length that `arange` computes.
bool keepsLength(const graph::Event &event, const CallView &call) {
  const ArgView *start = argNamed(event, call, "start"), *end = argNamed(event, call, "end"),
                *step = argNamed(event, call, "step");
  double distance = number(*end) - (start ? number(*start) : 0);
  double length = std::ceil(distance / (step ? number(*step) : 1));
  return event.results.size() == 1 && length == double(event.results[0].meta.sizes()[0]);
}

} // namespace

bool inDomain(const graph::Event &event, const CallView &call, uint32_t index) {
  const ArgView &arg = call.args[index];
  Domain domain = event.op->params[index].domain;
  if (!isNumber(arg) || event.gate || domain == Domain::Position)
    return true;
  for (const graph::Result &result : event.results)
    if (!fits(arg, result.meta.dtype))
      return false;
  double value = number(arg);
  switch (domain) {
  case Domain::Any:
  case Domain::Position:
    return true;
  case Domain::NotNegative:
    return value >= 0;
  case Domain::Positive:
    return value > 0;
  case Domain::Probability:
    return value >= 0 && value <= 1;
  case Domain::NotZero:
    return value != 0;
  case Domain::Divisor:
    return value != 0 || !isInteger(arg) || !onIntegers(event);
  case Domain::Exponent:
    return value >= 0 || !isInteger(arg) || !onIntegers(event);
  case Domain::AtMostNext:
    return value <= number(call.args[index + 1]);
  case Domain::AtLeastPrevious:
    return value >= number(call.args[index - 1]);
  case Domain::BelowNext:
    return value < number(call.args[index + 1]);
  case Domain::AbovePrevious:
    return value > number(call.args[index - 1]);
  case Domain::Range:
    return keepsLength(event, call);
  }
  return true;
}

} // namespace terra::tracer
