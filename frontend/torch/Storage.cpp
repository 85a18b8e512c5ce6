#include "frontend/torch/Storage.h"

#include "frontend/torch/Frontend.h"

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

namespace terra::frontend {

using runtime::Buffer;
using runtime::Memory;

namespace {

/// Storages of the program that have been promised data and not been given it yet.
std::atomic<int64_t> uninstalled{0};

void noteInstalled() { uninstalled.fetch_sub(1, std::memory_order_relaxed); }

/// The program's storage object is gone, or has been given other memory.
void dropBuffer(void *context) {
  auto *buffer = static_cast<Buffer *>(context);
  if (!buffer->installed.load(std::memory_order_acquire))
    noteInstalled();
  buffer->die(eventIndex());
  buffer->release();
}

constexpr std::pair<c10::ScalarType, DType> kTypes[] = {
    {c10::ScalarType::Bool, DType::Bool},
    {c10::ScalarType::Byte, DType::UInt8},
    {c10::ScalarType::Char, DType::Int8},
    {c10::ScalarType::Short, DType::Int16},
    {c10::ScalarType::Int, DType::Int32},
    {c10::ScalarType::Long, DType::Int64},
    {c10::ScalarType::Half, DType::Float16},
    {c10::ScalarType::BFloat16, DType::BFloat16},
    {c10::ScalarType::Float, DType::Float32},
    {c10::ScalarType::Double, DType::Float64},
    {c10::ScalarType::ComplexFloat, DType::Complex64},
    {c10::ScalarType::ComplexDouble, DType::Complex128},
};

c10::DispatchKeySet plainKeys() {
  static const c10::DispatchKeySet keys = [] {
    c10::impl::ExcludeDispatchKeyGuard guard(kBelowAutograd);
    return at::empty({0}).key_set();
  }();
  return keys;
}

std::mutex installLock;

void install(c10::StorageImpl &storage, Buffer &buffer) {
  if (buffer.installed.load(std::memory_order_acquire))
    return;
  std::lock_guard guard(installLock);
  if (buffer.installed.load(std::memory_order_relaxed))
    return;
  c10::DataPtr &old = storage._mutable_data_ptr_no_checks();
  c10::Device device = old.device();
  old.release_context();
  storage.set_data_ptr_noswap(c10::DataPtr(buffer.data(), &buffer, &dropBuffer, device));
  buffer.installed.store(true, std::memory_order_release);
  noteInstalled();
}

} // namespace

DType toDType(c10::ScalarType type) {
  static constexpr auto kTable = [] {
    std::array<DType, size_t(c10::ScalarType::NumOptions) + 1> table;
    table.fill(DType::Other);
    for (auto [torchType, dtype] : kTypes)
      table[size_t(torchType)] = dtype;
    return table;
  }();
  return kTable[std::min(size_t(type), kTable.size() - 1)];
}

c10::ScalarType toScalarType(DType dtype) {
  static constexpr auto kTable = [] {
    std::array<c10::ScalarType, size_t(DType::Other) + 1> table;
    table.fill(c10::ScalarType::Undefined);
    for (auto [torchType, type] : kTypes)
      table[size_t(type)] = torchType;
    return table;
  }();
  return kTable[size_t(dtype)];
}

bool isPlain(const c10::TensorImpl &impl) {
  return (impl.key_set().raw_repr() & ~plainKeys().raw_repr()) == 0 && impl.has_storage() &&
         impl.layout() == c10::kStrided && toDType(c10::typeMetaToScalarType(impl.dtype())) != DType::Other;
}

Buffer *bufferOf(const c10::StorageImpl &storage) {
  const c10::DataPtr &data = const_cast<c10::StorageImpl &>(storage)._mutable_data_ptr_no_checks();
  return data.get_deleter() == &dropBuffer ? static_cast<Buffer *>(data.get_context()) : nullptr;
}

Buffer *adopt(c10::StorageImpl &storage) {
  if (Buffer *buffer = bufferOf(storage))
    return buffer->exposed ? nullptr : buffer;
  if (storage.sym_nbytes().is_heap_allocated()) // of a fake tensor
    return nullptr;
  c10::DataPtr &data = storage._mutable_data_ptr_no_checks();
  static const c10::DeleterFnPtr cpuDeleter = c10::GetDefaultCPUAllocator()->raw_deleter();
  if (data.get() && data.get_deleter() != cpuDeleter)
    return nullptr;
  c10::DeleterFnPtr release = data.get_deleter();
  void *pointer = data.get();
  c10::Device device = data.device();
  auto *buffer = new Buffer(Memory{pointer, data.release_context(), release}, storage.nbytes(), Device{});
  buffer->installed.store(true, std::memory_order_relaxed);
  storage.set_data_ptr_noswap(c10::DataPtr(pointer, buffer, &dropBuffer, device));
  return buffer;
}

c10::intrusive_ptr<c10::StorageImpl> makePromisedStorage(Buffer *buffer) {
  uninstalled.fetch_add(1, std::memory_order_relaxed);
  return c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), c10::SymInt(int64_t(buffer->bytes())),
      c10::DataPtr(nullptr, buffer, &dropBuffer, c10::Device(c10::kCPU)), c10::GetCPUAllocator(), /*resizable=*/true);
}

bool nothingToInstall() { return uninstalled.load(std::memory_order_relaxed) == 0; }

void settle(runtime::Runtime &runtime, const c10::TensorImpl &impl, bool write) {
  if (!impl.has_storage())
    return;
  c10::StorageImpl *storage = impl.unsafe_storage().unsafeGetStorageImpl();
  if (!storage)
    return;
  Buffer *buffer = bufferOf(*storage);
  if (!buffer)
    return;
  runtime.settle(*buffer, write);
  install(*storage, *buffer);
}

tracer::TensorView viewOf(const c10::TensorImpl &impl) {
  tracer::TensorView view;
  c10::IntArrayRef sizes = impl.sizes(), strides = impl.strides();
  view.sizes = sizes.data();
  view.strides = strides.data();
  view.rank = uint32_t(sizes.size());
  view.dtype = toDType(c10::typeMetaToScalarType(impl.dtype()));
  view.offset = impl.storage_offset();
  return view;
}

namespace {
at::Tensor shaped(at::Tensor tensor, const TensorMeta &meta, int64_t offset) {
  size_t rank = meta.rank();
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(c10::IntArrayRef(meta.dims.data(), rank),
                                                      c10::IntArrayRef(meta.dims.data() + rank, rank), offset);
  return tensor;
}
} // namespace

at::Tensor makeTensor(c10::Storage storage, const TensorMeta &meta, int64_t offset) {
  return shaped(at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                         caffe2::TypeMeta::fromScalarType(toScalarType(meta.dtype))),
                meta, offset);
}

at::Tensor makeView(const c10::TensorImpl &base, const TensorMeta &meta, int64_t offset) {
  return shaped(at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(base.unsafe_storage()),
                                                         base.key_set(),
                                                         caffe2::TypeMeta::fromScalarType(toScalarType(meta.dtype))),
                meta, offset);
}

Memory memoryOf(c10::intrusive_ptr<c10::StorageImpl> storage) {
  void *data = storage->_mutable_data_ptr_no_checks().get();
  return {data, storage.release(),
          [](void *owner) { c10::intrusive_ptr<c10::StorageImpl>::reclaim(static_cast<c10::StorageImpl *>(owner)); }};
}

} // namespace terra::frontend
