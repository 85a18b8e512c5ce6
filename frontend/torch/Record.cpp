#include "frontend/torch/Record.h"

#include "frontend/torch/Hook.h"
#include "frontend/torch/Promise.h"
#include "tracer/Compare.h"

#include <c10/util/Exception.h>

#include <memory>

namespace terra::frontend {

using torch::jit::Stack;

namespace {

/// Passes warnings on while it lives, and notices them.
class WarningWatch final : public c10::WarningHandler {
public:
  WarningWatch() : next_(c10::WarningUtils::get_warning_handler()) { c10::WarningUtils::set_warning_handler(this); }
  ~WarningWatch() override { c10::WarningUtils::set_warning_handler(next_); }
  WarningWatch(const WarningWatch &) = delete;
  WarningWatch &operator=(const WarningWatch &) = delete;

  void process(const c10::Warning &warning) override {
    warned_ = true;
    next_->process(warning);
  }
  bool warned() const { return warned_; }

private:
  c10::WarningHandler *next_;
  bool warned_ = false;
};

} // namespace

Recording::Seen &Recording::seen() {
  thread_local const auto seen = std::make_unique<Seen>(); // thread-local variables are cheap while they are small
  return *seen;
}

Recording::Recording(runtime::Session &session, const OpEntry &entry, const CallBuilder &builder, bool gate)
    : session_(session), recorder_(session.recorder()), entry_(entry), builder_(builder), gate_(gate),
      expected_(recorder_.expected(builder.view())), operands_(builder.holdOperands()) {
  for (const auto &operand : operands_)
    versions_.push_back(operand ? versionOf(*operand) : 0);
}

void Recording::run(const c10::OperatorHandle &op, c10::DispatchKeySet keys, Stack *stack) {
  size_t base = stack->size() - entry_.numArgs;
  if (!expected_)
    copyCall(stack->data() + base);
  try {
    WarningWatch warnings;
    runForReal(op, keys, stack);
    gate_ |= warnings.warned(); // the program is to see it in every run, on its own thread
  } catch (...) {
    if (session_.recording() && currentSession() == &session_)
      finishFailed();
    throw;
  }
  if (!session_.recording() || currentSession() != &session_)
    return; // an inner call interrupted the recording
  Seen &now = seen();
  now.results.clear();
  now.counts.clear();
  gate_ |= !viewResults(*stack, base, operands_, now.counts, now.results);
  gate_ |= resized();
  now.call.operandVersions.clear();
  now.call.resultVersions.clear();
  for (uint32_t i = 0; i < operands_.size(); ++i)
    if (operands_[i] && versionOf(*operands_[i]) != versions_[i])
      now.call.operandVersions.emplace_back(i, versionOf(*operands_[i]) - versions_[i]);
  if (!gate_)
    noteResultVersions(*stack, base, now.call);
  // Operands that are results go on counting, from step to step.
  std::erase_if(now.call.resultVersions, [&](const auto &entry) { return now.results[entry.first].sameAs >= 0; });
  if (!asExpected() || !recorder_.finishExpected(expected_, now.results))
    finish();
  markResults(now.results, session_.region());
}

void Recording::copyCall(const c10::IValue *values) {
  own_ = recorder_.begin(builder_.view());
  ownCall_ = makeHostCall(entry_, values, *own_);
  own_->hostEqual = &recordedOpaqueEqual;
  if (session_.wantsLocations())
    own_->location = programLocation();
}

/// The call gave an operand other sizes (an `out=` that did not fit).
bool Recording::resized() const {
  const graph::Event &event = expected_ ? *expected_ : *own_;
  for (size_t i = 0; i < operands_.size(); ++i) {
    if (!event.inputs[i].written || !operands_[i])
      continue;
    c10::IntArrayRef sizes = operands_[i]->sizes();
    if (!tracer::sameInts<int64_t>(event.inputs[i].meta.sizes(), {sizes.data(), sizes.size()}))
      return true;
  }
  return false;
}

bool Recording::asExpected() const {
  if (!expected_ || expected_->gate != gate_ || !tracer::sameInts<int32_t>(expected_->resultCounts, seen().counts))
    return false;
  auto *before = static_cast<const HostCall *>(expected_->host.get());
  return before && before->operandVersions == seen().call.operandVersions &&
         before->resultVersions == seen().call.resultVersions;
}

void Recording::finish() {
  if (!own_) { // the call was as expected, its results are not
    own_ = recorder_.renew(*expected_);
    ownCall_ = std::make_shared<HostCall>(*static_cast<const HostCall *>(expected_->host.get()));
  }
  own_->gate = gate_;
  own_->resultCounts = seen().counts;
  ownCall_->operandVersions = seen().call.operandVersions;
  ownCall_->resultVersions = seen().call.resultVersions;
  own_->host = std::move(ownCall_);
  recorder_.finish(std::move(own_), seen().results);
}

/// The program may catch the error, and will meet it again: a gate without results.
void Recording::finishFailed() {
  seen().results.clear();
  seen().counts.clear();
  seen().call = {};
  gate_ = true;
  if (!asExpected() || !recorder_.finishExpected(expected_, {}))
    finish();
}

} // namespace terra::frontend
