#include "frontend/torch/PieceOperands.h"

namespace terra::frontend {

const graph::Op &pieceOp() {
  static const auto &op = *[] {
    auto *made = new graph::Op();
    made->name = "terra::backward.piece";
    made->params = {{"operands", false}};
    return made;
  }();
  return op;
}

OperandList pieceOperands(const BackwardWalk &walk, const std::vector<at::Tensor> &gradients,
                          const std::vector<BackwardPiece::Source> &sources) {
  using Kind = BackwardPiece::Source::Kind;
  OperandList operands(pieceOp());
  auto variable = [&](uint32_t node) -> const at::Tensor & {
    return static_cast<torch::autograd::AccumulateGrad *>(walk.nodes()[node])->variable;
  };
  for (const BackwardPiece::Source &source : sources) {
    switch (source.kind) {
    case Kind::Given:
      operands.add(gradients[source.index]);
      break;
    case Kind::Leaf:
      operands.add(variable(source.index));
      break;
    case Kind::LeafGrad:
      operands.add(variable(source.index).grad());
      break;
    case Kind::Saved:
      operands.add(static_cast<CallNode *>(walk.nodes()[source.index])->saved[source.sub].storage);
      break;
    }
  }
  return operands;
}

namespace {

/// The Python object counts as one reference, which does not matter while nobody else has the object.
template <typename Slot> bool isUnique(const Slot *slot) {
  if constexpr (requires { slot->has_unique_reference(); })
    return slot->has_unique_reference();
  else
    return false;
}

template <typename Slot> bool hasObject(const Slot *slot) {
  if constexpr (requires { slot->load_pyobj(); })
    return slot->load_pyobj() != nullptr;
  else
    return slot->_unchecked_untagged_pyobj() != nullptr;
}

} // namespace

uint8_t sharingOf(const at::Tensor &gradient, size_t references) {
  const c10::TensorImpl &impl = *gradient.unsafeGetTensorImpl();
  size_t count = gradient.use_count();
  bool alone = count <= references || (count == references + 1 && isUnique(impl.pyobj_slot()));
  bool storageAlone = impl.has_storage() && impl.unsafe_storage().use_count() == 1;
  return uint8_t(alone) << 1 | uint8_t(storageAlone);
}

bool isKnownToPython(const at::Tensor &tensor) {
  return tensor.defined() && hasObject(tensor.unsafeGetTensorImpl()->pyobj_slot());
}

} // namespace terra::frontend
