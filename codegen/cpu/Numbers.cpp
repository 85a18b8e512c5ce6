#include "codegen/cpu/Numbers.h"

#include "codegen/cache/Lru.h"
#include "graph/Structure.h"

#include <mutex>
#include <unordered_map>

namespace terra::codegen {

namespace {

/// All numbers of one kernel as they were first, and which have been others since.
struct Numbers {
  std::vector<int64_t> first;
  llvm::BitVector varying;
};

/// The kernels of one structure, by place. Several segments may be compiled at the same time.
struct Structure {
  std::mutex mutex;
  std::unordered_map<std::string, Numbers> kernels;
};

std::shared_ptr<Structure> structureOf(const graph::Segment &segment) {
  static auto &known = *new Lru<std::shared_ptr<Structure>>(256);
  Hasher hasher("structure");
  hasher.add(graph::structureHash(segment));
  Key key = hasher.finish();
  if (!known.find(key))
    known.insert(key, std::make_shared<Structure>());
  return known.find(key).value_or(std::make_shared<Structure>());
}

class Remembered final : public passes::SizeMemory {
public:
  explicit Remembered(std::shared_ptr<Structure> structure) : structure_(std::move(structure)) {}

  llvm::BitVector whichVary(llvm::StringRef place, llvm::ArrayRef<int64_t> numbers) override {
    std::lock_guard lock(structure_->mutex);
    auto [it, isNew] = structure_->kernels.try_emplace(place.str());
    Numbers &known = it->second;
    if (isNew || known.first.size() != numbers.size())
      known = {numbers.vec(), llvm::BitVector(unsigned(numbers.size()))};
    bool same = true;
    for (unsigned i = 0; i < numbers.size(); ++i)
      if (known.first[i] != numbers[i]) {
        known.varying.set(i);
        same = false;
      }
    return same ? llvm::BitVector(unsigned(numbers.size())) : known.varying; // the first sizes have code of their own
  }

private:
  std::shared_ptr<Structure> structure_;
};

class All final : public passes::SizeMemory {
public:
  llvm::BitVector whichVary(llvm::StringRef, llvm::ArrayRef<int64_t> numbers) override {
    return llvm::BitVector(unsigned(numbers.size()), true);
  }
};

} // namespace

std::unique_ptr<passes::SizeMemory> numbersOf(const graph::Segment &segment, NumberChoice choice) {
  if (choice == NumberChoice::Arguments)
    return std::make_unique<All>();
  return choice == NumberChoice::Constants ? nullptr : std::make_unique<Remembered>(structureOf(segment));
}

} // namespace terra::codegen
