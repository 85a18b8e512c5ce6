// Recording one call: runs it for real and tells the session's recorder what it did.
#pragma once

#include "frontend/torch/CallBuilder.h"
#include "frontend/torch/HostCall.h"
#include "runtime/Session.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace terra::frontend {

/// A call that is being recorded. What the last recording did at this place is noted again without a copy.
class Recording {
public:
  /// `builder` describes the call on the stack. `gate`: it is one whatever its results are.
  Recording(runtime::Session &session, const OpEntry &entry, const CallBuilder &builder, bool gate);

  void run(const c10::OperatorHandle &op, c10::DispatchKeySet keys, torch::jit::Stack *stack);

private:
  void copyCall(const c10::IValue *values);
  bool resized() const;
  bool asExpected() const;
  void finish();
  void finishFailed();

  runtime::Session &session_;
  tracer::Recorder &recorder_;
  const OpEntry &entry_;
  const CallBuilder &builder_;
  bool gate_;
  std::shared_ptr<const graph::Event> expected_;
  std::shared_ptr<graph::Event> own_;  ///< where nothing is expected
  std::shared_ptr<HostCall> ownCall_;
  c10::SmallVector<c10::intrusive_ptr<c10::TensorImpl>, 8> operands_;
  c10::SmallVector<uint32_t, 8> versions_; ///< of the operands before the call

  /// What is seen after the call; reused, since calls inside a real run are not recorded.
  struct Seen {
    std::vector<tracer::ResultView> results;
    std::vector<int32_t> counts;
    HostCall call; ///< only its versions
  };
  static Seen &seen();
};

} // namespace terra::frontend
