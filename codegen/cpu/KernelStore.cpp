#include "codegen/cpu/KernelStore.h"

namespace terra::codegen {

std::shared_ptr<KernelCode> KernelStore::find(const Key &key, CompileCost &cost) {
  if (auto loaded = loaded_.find(key)) {
    ++cost.fromMemory;
    return *loaded;
  }
  std::optional<std::string> object;
  if (StageTimer timer(cost, Stage::Cache); disk_)
    object = disk_->find(key);
  if (!object)
    return nullptr;
  StageTimer timer(cost, Stage::Load);
  std::string error;
  std::shared_ptr<KernelCode> code = loadKernel(*object, error);
  if (!code) // written by something else than this compiler; compiling it anew overwrites it
    return nullptr;
  ++cost.fromDisk;
  loaded_.insert(key, code);
  return code;
}

std::shared_ptr<KernelCode> KernelStore::insert(const Key &key, llvm::StringRef object, CompileCost &cost,
                                                std::string &error) {
  std::shared_ptr<KernelCode> code;
  {
    StageTimer timer(cost, Stage::Load);
    code = loadKernel(object, error);
  }
  if (!code)
    return nullptr;
  ++cost.compiled;
  loaded_.insert(key, code);
  if (StageTimer timer(cost, Stage::Cache); disk_)
    disk_->insert(key, object);
  return code;
}

} // namespace terra::codegen
