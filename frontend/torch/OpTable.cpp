#include "frontend/torch/OpTable.h"

#include <tsl/robin_map.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string_view>

namespace terra::frontend {

namespace {

using Names = std::initializer_list<std::string_view>;

bool oneOf(std::string_view name, Names names) { return std::find(names.begin(), names.end(), name) != names.end(); }

std::string_view baseName(std::string_view name) {
  name = name.substr(0, name.find('.'));
  return name.substr(name.find("::") + 2);
}

/// Look at shapes only, or serve tools: they run on promises as they are.
bool looksAtMetadataOnly(std::string_view base) {
  return oneOf(base, {"_fused_sdp_choice", "is_same_size", "_has_compatible_shallow_copy_type",
                      "_has_same_storage_numel", "sym_size", "sym_stride", "sym_numel", "sym_storage_offset",
                      "_version", "is_pinned", "_nested_tensor_size", "size", "stride", "is_contiguous",
                      "_assert_tensor_metadata", "is_non_overlapping_and_dense"});
}

/// Memory that C++ code outside the dispatcher may fill by pointer: real at once, whatever it is like.
bool makesUninitialised(std::string_view base) {
  return base.starts_with("empty") || base.starts_with("new_empty") || base.starts_with("_empty");
}

/// Constructors of tensors that are not plain.
bool isImmediate(std::string_view base) {
  return base.starts_with("_sparse") || base.starts_with("sparse_") || base.starts_with("to_sparse") ||
         base.starts_with("_to_sparse") || oneOf(base, {"_efficientzerotensor", "_pin_memory", "pin_memory"});
}

/// Raise errors that depend on the values of their operands.
bool mayFailOnData(std::string_view base) {
  if (base.starts_with("linalg_") || base.starts_with("_linalg") || base.starts_with("index") ||
      base.starts_with("scatter") || base.starts_with("embedding") || base.starts_with("_embedding") ||
      base.starts_with("nll_loss") || base.starts_with("cholesky") || base.starts_with("_ctc_loss"))
    return true;
  return oneOf(base, {"gather",
                      "_index_put_impl_",
                      "take",
                      "take_along_dim",
                      "put_",
                      "multinomial",
                      "one_hot",
                      "bincount",
                      "bernoulli",
                      "bernoulli_",
                      "normal",
                      "binomial",
                      "binary_cross_entropy",
                      "div",
                      "div_",
                      "floor_divide",
                      "floor_divide_",
                      "remainder",
                      "remainder_",
                      "fmod",
                      "fmod_",
                      "_assert_async",
                      "_assert_scalar",
                      "max_unpool2d",
                      "max_unpool3d",
                      "searchsorted",
                      "repeat_interleave",
                      "poisson",
                      "segment_reduce",
                      "masked_scatter",
                      "masked_scatter_",
                      "pow",
                      "pow_",
                      "inverse",
                      "lu_solve",
                      "ormqr",
                      "geqrf",
                      "triangular_solve",
                      "histc",
                      "gcd",
                      "multi_margin_loss",
                      "multilabel_margin_loss",
                      "grid_sampler_2d",
                      "max_pool2d_with_indices_backward"});
}

bool returnsTensorsOnly(const c10::FunctionSchema &schema) {
  for (const c10::Argument &result : schema.returns()) {
    const c10::TypePtr &type = result.type();
    bool list = type->kind() == c10::TypeKind::ListType &&
                type->castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::TensorType;
    if (!list && type->kind() != c10::TypeKind::TensorType)
      return false;
  }
  return true;
}

bool makesViews(const c10::FunctionSchema &schema) {
  if (schema.returns().empty())
    return false;
  for (const c10::Argument &result : schema.returns())
    if (!result.alias_info() || result.alias_info()->isWrite())
      return false;
  for (const c10::Argument &argument : schema.arguments())
    if (argument.alias_info() && argument.alias_info()->isWrite())
      return false;
  return true;
}

bool isTensorList(const c10::TypePtr &type) {
  if (type->kind() == c10::TypeKind::OptionalType)
    return isTensorList(type->castRaw<c10::OptionalType>()->getElementType());
  if (type->kind() != c10::TypeKind::ListType)
    return false;
  c10::TypePtr element = type->castRaw<c10::ListType>()->getElementType();
  if (element->kind() == c10::TypeKind::OptionalType)
    element = element->castRaw<c10::OptionalType>()->getElementType();
  return element->kind() == c10::TypeKind::TensorType;
}

/// Batch norms update their running statistics without saying so in the schema.
bool writesSilently(std::string_view base, const std::string &param) {
  return base.find("batch_norm") != std::string_view::npos && base.find("backward") == std::string_view::npos &&
         base.find("no_training") == std::string_view::npos && (param == "running_mean" || param == "running_var");
}

bool isGenerator(const c10::TypePtr &type) {
  if (type->kind() == c10::TypeKind::OptionalType)
    return isGenerator(type->castRaw<c10::OptionalType>()->getElementType());
  return type->kind() == c10::TypeKind::GeneratorType;
}

/// Their result's shape depends on data only where an index is a mask.
bool indexesByMask(std::string_view base) { return oneOf(base, {"index", "_unsafe_index"}); }

uint32_t flagsOf(const c10::OperatorHandle &handle, std::string_view name, std::string_view base, bool writes) {
  const c10::FunctionSchema &schema = handle.schema();
  uint32_t flags = 0;
  bool gate = !(name.starts_with("aten::") || name.starts_with("terra::")) || !returnsTensorsOnly(schema) ||
              (schema.returns().empty() && !writes) ||
              (handle.hasTag(at::Tag::dynamic_output_shape) && !indexesByMask(base)) ||
              handle.hasTag(at::Tag::data_dependent_output) || handle.hasTag(at::Tag::inplace_view) ||
              base.starts_with("resize") || base.starts_with("set_") || base.starts_with("quantize") ||
              base.starts_with("_cudnn") ||
              oneOf(base, {"_linalg_check_errors", "nonzero", "unique_dim", "_unique2", "masked_select", "equal",
                           "repeat_interleave", "bincount", "copy_sparse_to_sparse_", "_pack_padded_sequence",
                           "_resize_output_", "histc"});
  // Raise on singular input, or where an iteration does not converge: exact errors are cheap there.
  gate |= oneOf(base, {"_linalg_svd",
                       "_linalg_eigh",
                       "_linalg_eigvals",
                       "linalg_eig",
                       "linalg_eigvals",
                       "linalg_lstsq",
                       "linalg_ldl_factor_ex",
                       "linalg_lu_factor_ex",
                       "linalg_lu",
                       "linalg_inv_ex",
                       "linalg_cholesky_ex",
                       "_linalg_solve_ex",
                       "_linalg_det",
                       "_linalg_slogdet",
                       "linalg_pinv",
                       "cholesky",
                       "cholesky_inverse",
                       "cholesky_solve",
                       "geqrf",
                       "ormqr",
                       "lu_unpack",
                       "linalg_solve_triangular",
                       "triangular_solve"});
  if (gate)
    flags |= graph::kOpGate;
  if (handle.hasTag(at::Tag::nondeterministic_seeded))
    flags |= graph::kOpRandom;
  for (const c10::Argument &argument : schema.arguments())
    if (isGenerator(argument.type()))
      flags |= graph::kOpRandom;
  if (makesViews(schema))
    flags |= graph::kOpViewOnly;
  if (mayFailOnData(base))
    flags |= graph::kOpMayFailOnData;
  if (base == "_local_scalar_dense")
    flags |= graph::kOpFetch | graph::kOpGate;
  return flags;
}

std::string fullName(const c10::FunctionSchema &schema) {
  return schema.name() + (schema.overload_name().empty() ? "" : "." + schema.overload_name());
}

bool callsUnderAutocast(const c10::OperatorHandle &handle) {
  using Key = c10::DispatchKey;
  bool composed = handle.hasKernelForDispatchKey(Key::CompositeImplicitAutograd) &&
                  !handle.hasKernelForDispatchKey(Key::CPU) &&
                  !handle.hasKernelForDispatchKey(Key::CompositeExplicitAutograd);
  return composed || handle.hasKernelForDispatchKey(Key::AutocastCPU);
}

std::unique_ptr<OpEntry> makeEntry(const c10::OperatorHandle &handle) {
  auto entry = std::make_unique<OpEntry>(handle);
  const c10::FunctionSchema &schema = handle.schema();
  entry->key = &schema;
  graph::Op &op = entry->op;
  op.name = fullName(schema);
  entry->builtin = op.name.starts_with("aten::") || op.name.starts_with("terra::");
  bool writes = false;
  for (const c10::Argument &argument : schema.arguments()) {
    bool written = (argument.alias_info() && argument.alias_info()->isWrite()) ||
                   writesSilently(baseName(op.name), argument.name());
    writes |= written;
    op.params.push_back({argument.name(), written, graph::domainOf(op.name, argument.name())});
    entry->listArgs.push_back(isTensorList(argument.type()));
    entry->generatorArgs.push_back(isGenerator(argument.type()));
  }
  entry->numArgs = uint32_t(schema.arguments().size());
  std::string_view base = baseName(op.name);
  op.flags = flagsOf(handle, op.name, base, writes);
  op.viewRule = graph::viewRuleOf(op.name);
  op.host = entry.get();
  entry->indexesByMask = indexesByMask(base);
  entry->makesScalarsOnly = oneOf(base, {"zeros", "ones", "full", "scalar_tensor"});
  entry->makesUninitialised = makesUninitialised(base);
  entry->callsUnderAutocast = callsUnderAutocast(handle);
  if (op.name.starts_with("profiler::") || looksAtMetadataOnly(base) || entry->makesUninitialised)
    entry->route = Route::Ignore;
  else if (isImmediate(base))
    entry->route = Route::Immediate;
  return entry;
}

} // namespace

OpEntry &opEntry(const c10::OperatorHandle &handle) {
  // The schema lives as long as the operator; its address is the cheapest identity that all versions offer.
  const void *key = &handle.schema();
  constexpr size_t kCache = 256;
  static constinit std::array<std::atomic<OpEntry *>, kCache> cache{};
  std::atomic<OpEntry *> &last = cache[(reinterpret_cast<uintptr_t>(key) >> 5) % kCache];
  if (OpEntry *entry = last.load(std::memory_order_acquire); entry && entry->key == key)
    return *entry;
  static std::mutex mutex;
  static auto &table = *new tsl::robin_map<const void *, std::unique_ptr<OpEntry>>();
  std::lock_guard lock(mutex);
  auto it = table.find(key);
  if (it == table.end()) {
    it = table.emplace(key, makeEntry(handle)).first;
  } else if (!it->second->builtin && it->second->op.name != fullName(handle.schema())) {
    // A library of the user's is gone, and another operator lives at its address. Graphs may refer to the old entry.
    it.value().release();
    it.value() = makeEntry(handle);
  }
  OpEntry &entry = *it->second;
  if (entry.builtin)
    last.store(&entry, std::memory_order_release);
  return entry;
}

} // namespace terra::frontend
