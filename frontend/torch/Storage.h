// Buffers behind PyTorch's storages.
//
// The DataPtr of a storage that the graph knows has a Buffer as its context. For a promised value the data pointer is null
// until someone in the program needs it and `settle` installs it. For a storage of the program, `adopt` moves the owner of its memory into
// the buffer, so that queued work keeps the memory, and never the storage object, alive: autograd decides by use counts.
#pragma once

#include "graph/Event.h"
#include "runtime/Runtime.h"
#include "tracer/CallView.h"

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>

namespace terra::frontend {

DType toDType(c10::ScalarType type);
c10::ScalarType toScalarType(DType dtype);

/// Dense, strided, on the CPU, without conj, neg or Python keys.
bool isPlain(const c10::TensorImpl &impl);

/// The buffer behind a storage, or null when the graph has never seen it.
runtime::Buffer *bufferOf(const c10::StorageImpl &storage);

/// The buffer behind a storage; makes one. Null for foreign memory: not from PyTorch's CPU allocator, or handed to NumPy.
runtime::Buffer *adopt(c10::StorageImpl &storage);

/// A new storage whose data will come later. `buffer` gives one reference to it.
c10::intrusive_ptr<c10::StorageImpl> makePromisedStorage(runtime::Buffer *buffer);

/// Waits for queued work on the tensor's storage and installs its data. For every tensor that real work touches.
void settle(runtime::Runtime &runtime, const c10::TensorImpl &impl, bool write);

/// True when every storage of the program has the data that it was promised.
bool nothingToInstall();

/// Metadata of a plain tensor; `storage` is left null.
tracer::TensorView viewOf(const c10::TensorImpl &impl);

/// A plain tensor on `storage` with the recorded sizes, strides and dtype, at `offset` elements.
at::Tensor makeTensor(c10::Storage storage, const TensorMeta &meta, int64_t offset);

/// The same on the storage of `base`. Like a kernel's view it is an inference tensor where `base` is one, whatever the mode.
at::Tensor makeView(const c10::TensorImpl &base, const TensorMeta &meta, int64_t offset);

/// Memory of a storage that PyTorch made, kept alive by a reference to it.
runtime::Memory memoryOf(c10::intrusive_ptr<c10::StorageImpl> storage);

} // namespace terra::frontend
