"""Copies of live objects as plain trees, and the first difference between two such trees."""

import dataclasses
import math

import numpy as np
import torch


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How close numbers must be. Zero: bit for bit. `scale` multiplies the dtype's own tolerance in fast mode."""

    rtol: float = 0.0
    atol: float = 0.0

    @property
    def exact(self):
        return self.rtol == 0 and self.atol == 0

    @staticmethod
    def fast(rtol=2e-4, atol=2e-5):
        return Tolerance(rtol, atol)

    def of(self, dtype):
        """Tolerances for `dtype`: those given are for float32."""
        if dtype in (torch.float64, torch.complex128):
            return self.rtol * 1e-7, self.atol * 1e-7
        # Two roundings of the type itself: eager rounds after every op, a fused kernel once.
        rounding = {torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}.get(dtype, 0.0)
        return max(self.rtol, rounding), max(self.atol, rounding / 4)


@dataclasses.dataclass
class Frozen:
    """Everything that Python can see of a tensor. `meta` must be equal, `data` equal or close."""

    meta: dict
    data: torch.Tensor | None
    grad: "Frozen | None" = None


@dataclasses.dataclass(frozen=True)
class Repeated:
    """The object with this number in the walk."""

    number: int


def freeze(value, memory=False):
    """A tree that shares nothing with `value`; objects and storages met twice are told by numbers.

    `memory`: also compare addresses and sizes of storages. That hands the memory out, so it is for the end of a test.
    """
    return _Freezer(memory).freeze(value)


class _Freezer:
    def __init__(self, memory):
        self.objects = {}  # id -> (number, object), which keeps the object alive and the id unique
        self.memory = memory
        self.representatives = []  # one tensor of each storage
        self.addresses = {}

    def freeze(self, value):
        if isinstance(value, (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device)):
            return value
        if isinstance(value, (Frozen, Repeated)):
            return value
        if isinstance(value, (torch.Size, np.generic)):
            return repr(value)
        if id(value) in self.objects:
            return Repeated(self.objects[id(value)][0])
        self.objects[id(value)] = (len(self.objects), value)
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        return self.other(value)

    def other(self, value):
        if isinstance(value, dict):
            items = [(self.freeze(k), self.freeze(v)) for k, v in value.items()]
            return [type(value).__name__, *items]
        if isinstance(value, (list, tuple)):
            return [type(value).__name__, *map(self.freeze, value)]
        if isinstance(value, (set, frozenset)):
            return [type(value).__name__, sorted(map(repr, value))]
        if isinstance(value, np.ndarray):
            return ["ndarray", value.dtype.str, value.shape, value.strides, value.tobytes()]
        if isinstance(value, torch.nn.Module):
            parameters = dict(value.named_parameters(remove_duplicate=False))
            buffers = dict(value.named_buffers(remove_duplicate=False))
            return ["Module", value.training, self.freeze(parameters), self.freeze(buffers)]
        if isinstance(value, torch.Generator):
            return ["Generator", value.get_state().numpy().tobytes()]
        if hasattr(value, "state_dict"):
            return [type(value).__name__, self.freeze(value.state_dict())]
        if isinstance(value, BaseException):
            return [type(value).__name__, str(value)]
        return [type(value).__name__, self.freeze(vars(value)) if hasattr(value, "__dict__") else repr(value)]

    def storage(self, tensor):
        """Number of the storage, and of its memory, in the order of first sight."""
        same = (k for k, other in enumerate(self.representatives) if torch._C._is_alias_of(other, tensor))
        number = next(same, len(self.representatives))
        if number == len(self.representatives):
            self.representatives.append(tensor)
        if not self.memory:
            return number
        storage = tensor.untyped_storage()
        address = self.addresses.setdefault(storage.data_ptr(), len(self.addresses)) if storage.nbytes() else None
        return [number, address, storage.nbytes()]

    def tensor(self, tensor):
        meta = {
            "type": type(tensor).__name__,
            "dtype": tensor.dtype,
            "layout": tensor.layout,
            "device": str(tensor.device),
            "shape": tuple(tensor.shape),
            "requires_grad": tensor.requires_grad,
            "leaf": tensor.is_leaf,
            "history": tensor.grad_fn is not None,
            "retains_grad": tensor.retains_grad,
            "inference": tensor.is_inference(),
            "attributes": sorted(vars(tensor)) if hasattr(tensor, "__dict__") else [],
        }
        if not tensor.is_inference():
            meta["version"] = tensor._version
        grad = tensor.grad if tensor.is_leaf or tensor.retains_grad else None
        grad = None if grad is None else self.freeze(grad)
        with torch.no_grad():
            if tensor.layout != torch.strided:
                return (
                    Frozen(meta, None, grad) if tensor.layout != torch.sparse_coo else self.sparse(tensor, meta, grad)
                )
            meta.update(stride=tensor.stride(), offset=tensor.storage_offset(), storage=self.storage(tensor))
            meta.update(conj=tensor.is_conj(), neg=tensor.is_neg(), view=tensor._is_view())
            data = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
            return Frozen(meta, data, grad)

    def sparse(self, tensor, meta, grad):
        meta.update(coalesced=tensor.is_coalesced(), sparse_dim=tensor.sparse_dim())
        parts = [tensor._indices().clone(), tensor._values().clone()]
        return [Frozen(meta, None, grad), self.freeze(parts)]


def same_bits(a, b):
    """Equal in every bit, any NaN being equal to any other. Both are dense and contiguous."""
    if a.dtype.is_complex:
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[a.element_size()]
    return bool(((a.view(bits) == b.view(bits)) | (a.isnan() & b.isnan())).all())


def _worst(expected, actual):
    wide = torch.complex128 if expected.dtype.is_complex else torch.float64
    gap = (expected.to(wide) - actual.to(wide)).abs().nan_to_num(nan=math.inf)
    gap[expected.to(wide) == actual.to(wide)] = 0  # infinities
    at = int(gap.flatten().argmax())
    place = tuple(int(n) for n in np.unravel_index(at, expected.shape)) if expected.dim() else ()
    values = f"{expected.flatten()[at].item()!r} eagerly, {actual.flatten()[at].item()!r} under terra"
    return f"{int((gap > 0).sum())} of {expected.numel()} elements differ, most at {place}: {values}"


def _data_difference(expected, actual, tolerance, path):
    if same_bits(expected, actual):
        return None
    if tolerance.exact or not (expected.dtype.is_floating_point or expected.dtype.is_complex):
        return f"{path}: {_worst(expected, actual)}"
    rtol, atol = tolerance.of(expected.dtype)
    # Sums that cancel (the gradient of a key's bias is zero) are as accurate as the largest elements.
    largest = float(expected.abs().nan_to_num(0, 0, 0).max()) if expected.numel() else 0.0
    atol = max(atol, 4 * torch.finfo(expected.dtype).eps * largest)
    wide = torch.complex128 if expected.dtype.is_complex else torch.float64
    if torch.allclose(actual.to(wide), expected.to(wide), rtol=rtol, atol=atol, equal_nan=True):
        return None
    return f"{path}: {_worst(expected, actual)} (rtol {rtol}, atol {atol})"


def _frozen_difference(expected, actual, tolerance, path):
    for key in expected.meta.keys() | actual.meta.keys():
        pair = expected.meta.get(key), actual.meta.get(key)
        if pair[0] != pair[1]:
            return f"{path}.{key}: {pair[0]} eagerly, {pair[1]} under terra"
    if expected.data is not None:
        found = _data_difference(expected.data, actual.data, tolerance, path)
        if found:
            return found
    return difference(expected.grad, actual.grad, tolerance, f"{path}.grad")


def difference(expected, actual, tolerance, path="value"):
    """The first difference of two frozen trees in words, or None."""
    if type(expected) is not type(actual):
        return f"{path}: {_short(expected)} eagerly, {_short(actual)} under terra"
    if isinstance(expected, Frozen):
        return _frozen_difference(expected, actual, tolerance, path)
    if isinstance(expected, (list, tuple)):
        if len(expected) != len(actual):
            counts = f"{len(expected)} items eagerly, {len(actual)} under terra"
            return f"{path}: {counts}: {_short(expected)}, {_short(actual)}"
        for i, (left, right) in enumerate(zip(expected, actual, strict=False)):
            named = isinstance(left, tuple) and len(left) == 2 and isinstance(left[0], (str, int))
            found = difference(left, right, tolerance, f"{path}.{left[0] if named else i}")
            if found:
                return found
        return None
    if isinstance(expected, dict):
        return difference(list(expected.items()), list(actual.items()), tolerance, path)
    if isinstance(expected, complex):
        pairs = [expected.real, expected.imag], [actual.real, actual.imag]
        return difference(*pairs, tolerance, path)
    if isinstance(expected, float):
        close = expected == actual or (math.isnan(expected) and math.isnan(actual))
        if not close and not tolerance.exact:
            close = math.isclose(expected, actual, rel_tol=tolerance.rtol, abs_tol=tolerance.atol)
        return None if close else f"{path}: {expected!r} eagerly, {actual!r} under terra"
    return None if expected == actual else f"{path}: {_short(expected)} eagerly, {_short(actual)} under terra"


def _short(value):
    text = f"tensor {value.meta['dtype']} {value.meta['shape']}" if isinstance(value, Frozen) else repr(value)
    return text if len(text) < 300 else text[:300] + "…"
