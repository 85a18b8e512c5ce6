// Tensors and calls of the fake framework, run plainly.
#pragma once

#include "FakeHost.h"
#include "runtime/Runtime.h"
#include "tracer/CallView.h"

#include <memory>
#include <vector>

namespace terra::fake {

/// The program's storage object. Dropping it is what the runtime learns as a death.
class Storage {
public:
  /// `runtime`: whose event index tells when the storage died; null in plain runs.
  Storage(runtime::Buffer *buffer, runtime::Runtime *runtime) : buffer_(buffer), runtime_(runtime) {}
  Storage(const Storage &) = delete;
  Storage &operator=(const Storage &) = delete;
  ~Storage() {
    buffer_->die(runtime_ ? runtime_->eventIndex.load(std::memory_order_relaxed) : 0);
    buffer_->release();
  }
  runtime::Buffer &buffer() const { return *buffer_; }

private:
  runtime::Buffer *buffer_;
  runtime::Runtime *runtime_;
};

struct Tensor {
  std::shared_ptr<Storage> storage;
  TensorMeta meta;

  explicit operator bool() const { return storage != nullptr; }
};

/// The elements of settled data, folded into one number.
int64_t digest(const Tensor &tensor);

/// A call: the op, its tensors and the arguments in order.
struct Call {
  const FakeOp *op = nullptr;
  std::vector<Tensor> tensors;
  std::vector<tracer::ArgView> args;
  std::vector<double> doubles; ///< of the one DoubleList argument

  Call(const FakeOp &which, std::vector<Tensor> operands);
  Call &number(double value);
  Call &index(int64_t value);
  Call &list(std::vector<double> values);
  graph::Event shallowEvent() const; ///< op and arguments without operands
};

/// What the program calls. The base class is the plain sequential interpreter.
class Frontend {
public:
  explicit Frontend(Generator &generator) : generator_(generator) {}
  virtual ~Frontend() = default;

  /// An op, or a composite, which is the calls that it makes.
  virtual std::vector<Tensor> call(const Call &call);
  /// A gate that turns a tensor into a number of the program.
  virtual int64_t item(const Tensor &tensor);
  /// Looks at the data without an op.
  virtual int64_t read(const Tensor &tensor);
  /// An op that the hook does not take into the graph, in place.
  virtual void callImmediately(const Call &call);
  /// The number of draws so far.
  virtual uint64_t readGenerator();
  virtual void barrier() {}

  /// New memory of the program's own.
  Tensor make(const TensorMeta &meta, int64_t first);
  /// Memory full of rubbish.
  virtual Tensor uninitialised(const TensorMeta &meta);
  graph::Context context = 1;
  graph::Whole whole = 0;

protected:
  /// One op.
  virtual std::vector<Tensor> event(const Call &call);
  std::vector<Tensor> compute(const Call &call);
  virtual runtime::Runtime *owner() { return nullptr; }

private:
  Tensor fresh(const TensorMeta &meta, int64_t bytes);
  Tensor view(const Call &call);
  Tensor odd(const Tensor &tensor);

  Generator &generator_;
};

/// Raised by the reference instead of the op that fails.
struct StoppedHere {};

/// The plain interpreter, which can stop before an event.
class Reference : public Frontend {
public:
  using Frontend::Frontend;
  int64_t item(const Tensor &tensor) override {
    count();
    return Frontend::item(tensor);
  }
  /// Counts events from 0 again; `stop`: the one before which StoppedHere is thrown, or -1.
  void begin(int64_t stop) {
    stop_ = stop;
    events_ = 0;
    fallible_.clear();
  }
  int64_t events() const { return events_; }
  /// Those whose op may fail on data.
  const std::vector<int64_t> &fallible() const { return fallible_; }

protected:
  std::vector<Tensor> event(const Call &call) override {
    if (call.op->op.has(graph::kOpMayFailOnData))
      fallible_.push_back(events_);
    count();
    return Frontend::event(call);
  }

private:
  void count() {
    if (events_++ == stop_)
      throw StoppedHere();
  }
  int64_t stop_ = -1, events_ = 0;
  std::vector<int64_t> fallible_;
};

} // namespace terra::fake
