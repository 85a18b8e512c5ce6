#include "frontend/torch/Above.h"
#include "frontend/torch/CarrySpans.h"
#include "frontend/torch/Frontend.h"
#include "frontend/torch/Hook.h"
#include "frontend/torch/Storage.h"
#include "frontend/torch/TorchHost.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/SequenceNumber.h>
#include <ATen/autocast_mode.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ScopeExit.h>

#if defined(__x86_64__)
#include <pmmintrin.h>
#endif
#include <utility>

namespace terra::frontend {

runtime::Runtime &runtimeInstance() {
  // Never destroyed: promised values may outlive every static. The module's exit handler shuts it down.
  static runtime::Runtime &instance = *[] {
    auto *made = new runtime::Runtime(torchHost());
    made->sequence = [] { return at::sequence_number::peek(); };
    made->carrySpans = &carrySpans;
    return made;
  }();
  return instance;
}

uint32_t eventIndex() { return runtimeInstance().eventIndex.load(std::memory_order_relaxed); }

static constexpr int kAutocastShift = 25;

/// 0: off.
static uint64_t autocastDtype() {
  return at::autocast::is_autocast_enabled(at::kCPU) ? 1 + uint64_t(at::autocast::get_autocast_dtype(at::kCPU)) : 0;
}

/// The thread computes with zeros instead of denormal numbers.
static bool flushesDenormals() {
#if defined(__x86_64__)
  return _mm_getcsr() & (_MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON);
#else
  return false;
#endif
}

graph::Context currentContext() {
  at::Context &global = at::globalContext();
  graph::Context context = 0;
  auto add = [&](uint64_t value, int bits) { context = (context << bits) | (value & ((uint64_t(1) << bits) - 1)); };
  // Which kernels scaled_dot_product_attention may choose from, and in which order.
  for (at::SDPBackend backend : global.sDPPriorityOrder())
    add(uint64_t(backend), 3);
  add(global.userEnabledFlashSDP(), 1);
  add(global.userEnabledMemEfficientSDP(), 1);
  add(global.userEnabledMathSDP(), 1);
  add(global.userEnabledOverrideableSDP(), 1);
  add(global.allowFP16BF16ReductionMathSDP(), 1);
  add(flushesDenormals(), 1);
  add(autocastDtype(), 8);
  add(uint64_t(c10::get_default_dtype_as_scalartype()), 8);
  add(c10::InferenceMode::is_enabled(), 1);
  add(global.deterministicAlgorithms(), 1);
  add(global.deterministicFillUninitializedMemory(), 1);
  add(global.userEnabledMkldnn(), 1);
  add(uint64_t(at::get_num_threads()), 12);
  add(c10::GradMode::is_enabled(), 1);
  return context;
}

bool gradModeOf(graph::Context context) { return context & 1; }
int threadsOf(graph::Context context) { return int((context >> 1) & 0xfff); }

static bool flushesDenormalsIn(graph::Context context) { return (context >> (kAutocastShift + 8)) & 1; }

void useDenormalsOf(graph::Context context) {
  if (flushesDenormals() != flushesDenormalsIn(context))
    at::globalContext().setFlushDenormal(flushesDenormalsIn(context));
}

static uint64_t autocastOf(graph::Context context) { return (context >> kAutocastShift) & 0xff; }

AutocastScope::AutocastScope(graph::Context context) : entered_(autocastOf(context) != 0) {
  if (!entered_)
    return;
  wasEnabled_ = at::autocast::is_autocast_enabled(at::kCPU);
  dtypeBefore_ = at::autocast::get_autocast_dtype(at::kCPU);
  at::autocast::set_autocast_dtype(at::kCPU, c10::ScalarType(autocastOf(context) - 1));
  at::autocast::set_autocast_enabled(at::kCPU, true);
}

AutocastScope::~AutocastScope() {
  if (!entered_)
    return;
  at::autocast::set_autocast_enabled(at::kCPU, wasEnabled_);
  at::autocast::set_autocast_dtype(at::kCPU, dtypeBefore_);
}

void listenOnThisThread() { c10::impl::tls_set_dispatch_key_included(kBelowAutograd, true); }

namespace {

/// The eager call under way on this thread, if there is one. It does without the hook where nothing is left for it to do: all that was
/// promised has been computed and has found its way into the program's storages.
struct EagerCall {
  bool active = false, unhooked = false;

  void begin() {
    active = true;
    unhooked = nothingToInstall() && runtimeInstance().beginUnhooked();
    if (unhooked)
      c10::impl::tls_set_dispatch_key_included(kBelowAutograd, false);
  }
  void end() {
    if (std::exchange(unhooked, false)) {
      listenOnThisThread();
      runtimeInstance().endUnhooked();
    }
    active = false;
  }
};
thread_local EagerCall eagerCall;

bool enterRegion(runtime::Session &session) {
  if (!session.enter())
    return false;
  setCurrentSession(&session);
  listenOnThisThread();
  listenAboveAutograd(true);
  return true;
}

void exitRegion(runtime::Session &session, bool raised) {
  setCurrentSession(nullptr);
  listenAboveAutograd(false);
  session.exit(raised);
}

} // namespace

Entry enterCall(runtime::Session &session) {
  using Way = runtime::Pacing::Way;
  if (currentSession() || eagerCall.active)
    return Entry::Inside;
  Way way = session.pacing().enter();
  if (way == Way::Inside)
    return Entry::Inside;
  if (way == Way::Eager) {
    eagerCall.begin();
    return Entry::Eager;
  }
  bool entered = false;
  auto leave = c10::make_scope_exit([&] { // also when the error of an earlier region is raised
    if (!entered)
      session.pacing().leave(false);
  });
  entered = enterRegion(session);
  return entered ? Entry::Region : Entry::Inside;
}

void exitCall(runtime::Session &session, Entry entry, bool raised) {
  auto leave = c10::make_scope_exit([&] { session.pacing().leave(!raised); });
  if (entry == Entry::Eager)
    eagerCall.end();
  else
    exitRegion(session, raised);
}

} // namespace terra::frontend
