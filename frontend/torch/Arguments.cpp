#include "frontend/torch/Arguments.h"

#include <ATen/ATen.h>

namespace terra::frontend {

using graph::Arg;
using graph::ArgKind;

namespace {

using OperandOf = c10::function_ref<at::Tensor(uint32_t)>;

c10::IValue tensorList(const HostCall &call, uint32_t index, const Arg &arg, OperandOf operand) {
  const c10::TypePtr &type = call.entry->handle.schema().arguments()[index].type();
  bool optionals = type->castRaw<c10::ListType>() &&
                   type->castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::OptionalType;
  if (optionals) {
    c10::List<std::optional<at::Tensor>> list;
    for (uint32_t i = 0; i < arg.count; ++i) {
      at::Tensor tensor = operand(arg.first + i);
      list.push_back(tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt);
    }
    return list;
  }
  c10::List<at::Tensor> list;
  for (uint32_t i = 0; i < arg.count; ++i)
    list.push_back(operand(arg.first + i));
  return list;
}

at::Tensor wrapped(const c10::Scalar &value) {
  at::Tensor tensor = at::scalar_tensor(value, at::TensorOptions().dtype(value.type()));
  tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

c10::IValue scalar(const HostCall &call, const Arg &arg, uint32_t index, const Scalar *value) {
  switch (arg.kind) {
  case ArgKind::NumberDouble:
    return wrapped(value->d);
  case ArgKind::NumberInt:
    return wrapped(value->i);
  case ArgKind::Double:
    return value->d;
  case ArgKind::DoubleList: {
    c10::List<c10::IValue> list = call.args[index].deepcopy().toList();
    for (uint32_t i = 0; i < arg.count; ++i)
      list.set(i, value[i].d);
    return list;
  }
  default:
    return value->i;
  }
}

} // namespace

torch::jit::Stack makeArguments(const HostCall &call, const graph::Event &event, OperandOf operand,
                                c10::function_ref<const Scalar *(uint32_t)> feeds) {
  torch::jit::Stack stack;
  stack.reserve(call.args.size() + 2);
  for (uint32_t i = 0; i < call.args.size(); ++i) {
    const Arg &arg = event.args[i];
    if (arg.kind == ArgKind::Tensor)
      stack.emplace_back(operand(arg.first));
    else if (arg.kind == ArgKind::TensorList)
      stack.push_back(tensorList(call, i, arg, operand));
    else
      stack.push_back(arg.varies ? scalar(call, arg, i, feeds(i)) : call.args[i]);
  }
  return stack;
}

} // namespace terra::frontend
