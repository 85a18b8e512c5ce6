// What autograd knows of results that share memory: views of operands, and views of tensors that a call makes and does not return
// (`linear` of three dimensions returns a view of what `addmm` made).
#pragma once

#include "frontend/torch/Compat.h"
#include "graph/Event.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/variable.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace terra::frontend {

/// How a result is a view.
struct ViewHistory {
  enum class Kind : uint8_t {
    None,
    OfOperand,
    OfHidden, ///< by `view`, of a tensor that the call makes for itself
    Detached ///< of an operand, which it shares the version counter with, and no history
  } kind = Kind::None;
  uint32_t of = 0; ///< operand or hidden base
  torch::autograd::CreationMeta creation = torch::autograd::CreationMeta::DEFAULT;
};

/// A tensor that the program can only reach as the base of a result.
struct HiddenBase {
  TensorMeta meta;
  uint32_t version = 0;
  bool history = false;
};

/// The views among a call's results, learned from a real call.
struct CallViews {
  std::vector<ViewHistory> results; ///< parallel to the results; empty where none is a view
  std::vector<HiddenBase> hidden;

  const ViewHistory *of(size_t result) const {
    return result < results.size() && results[result].kind != ViewHistory::Kind::None ? &results[result] : nullptr;
  }
  /// Makes `made`, a new tensor on the base's storage, the view that the call would have made.
  static at::Tensor attach(const ViewHistory &view, const at::Tensor &base, at::Tensor made);
  /// A result of which base `index` is the base.
  std::optional<size_t> resultOn(size_t index) const;
  /// Gives a result eager's own node, whose gradients go to `edge` of its base.
  static void link(const at::Tensor &result, const at::Tensor &base, torch::autograd::Edge edge);
};

/// Looks at the results of a real call, one after another.
class ViewReader {
public:
  using CreationMeta = torch::autograd::CreationMeta;
  /// `creation`: of views of operands. `mayDetach`: they may have no history.
  ViewReader(c10::ArrayRef<c10::intrusive_ptr<c10::TensorImpl>> operands, CreationMeta creation, bool mayDetach)
      : operands_(operands), creation_(creation), mayDetach_(mayDetach) {}

  /// A result on memory of the call's own. False when it is a view that could not be made again.
  bool addOwn(const at::Tensor &result);
  /// A result that is an operand.
  void addSame() { views.results.emplace_back(); }
  /// A result on an operand's storage. Returns which operand it is a view of.
  std::optional<uint32_t> addShared(const at::Tensor &result);

  /// One node can stand for the history of all results.
  bool nodesFit(c10::ArrayRef<at::Tensor> results, const std::vector<bool> &history) const;
  /// The program can reach a base as another result too.
  bool returnsBase(c10::ArrayRef<at::Tensor> results) const;

  CallViews views;

private:
  std::optional<uint32_t> operandOf(const at::Tensor &result) const;

  c10::ArrayRef<c10::intrusive_ptr<c10::TensorImpl>> operands_;
  CreationMeta creation_;
  bool mayDetach_;
  std::vector<const c10::TensorImpl *> bases_;
};

} // namespace terra::frontend
