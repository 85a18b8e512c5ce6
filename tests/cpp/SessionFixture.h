// A session of the fake framework, with the runner in the test's hand.
#pragma once

#include "FakeHook.h"

#include <gtest/gtest.h>

namespace terra::fake {

class SessionFixture : public testing::Test {
protected:
  ~SessionFixture() override { host_.open(); }

  /// One region call. Returns what left it as an exception.
  std::exception_ptr region(const std::function<void()> &body) {
    std::exception_ptr error;
    try {
      session_.enter();
    } catch (...) {
      return std::current_exception();
    }
    hooked_.session = &session_;
    try {
      body();
    } catch (...) {
      error = std::current_exception();
    }
    hooked_.session = nullptr;
    try {
      session_.exit(error != nullptr);
    } catch (...) {
      error = std::current_exception();
    }
    return error;
  }
  /// A region that Python leaves before anything of it is computed.
  void runAhead(const std::function<void()> &body) {
    host_.shut();
    EXPECT_EQ(region(body), nullptr);
    host_.open();
  }
  Tensor add(const Tensor &a, const Tensor &b) { return hooked_.call(Call(ops().add, {a, b}).number(1))[0]; }
  void step() { hooked_.call(Call(ops().addInPlace, {a_, b_}).number(1)); }
  bool pending(const Tensor &tensor) const {
    return tensor.storage->buffer().state() == runtime::Buffer::State::Pending;
  }

  FakeHost host_;
  runtime::Runtime runtime_{host_};
  /// Exact: nothing is compiled behind the test's back; the fake ops are not the compiler's.
  runtime::Session session_{runtime_, {.numerics = codegen::Numerics::Exact}};
  Hooked hooked_{runtime_, host_.generator};
  Tensor a_ = hooked_.make(contiguous({2, 4}), 1), b_ = hooked_.make(contiguous({2, 4}), 5);
};

} // namespace terra::fake
