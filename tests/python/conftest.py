"""Shared settings: deterministic Hypothesis in CI, `conformance` for the long runs, one place that says which is on."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

# Before terra is loaded, here and in processes that tests start: the user's own cache is no place for tests.
os.environ["TERRA_CACHE_DIR"] = tempfile.mkdtemp(prefix="terra-test-cache-")
atexit.register(shutil.rmtree, os.environ["TERRA_CACHE_DIR"], ignore_errors=True)

# Which calls are co-executed must not depend on the time they take.
os.environ["TERRA_NEVER_SLOWER"] = "0"

CONFORMANCE = os.environ.get("TERRA_CONFORMANCE") == "1"

hypothesis.settings.register_profile(
    "ci",
    max_examples=int(os.environ.get("TERRA_FUZZ_EXAMPLES", "25")),
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile(
    "conformance",
    parent=hypothesis.settings.get_profile("ci"),
    max_examples=int(os.environ.get("TERRA_FUZZ_EXAMPLES", "2000")),
    derandomize=False,
)
hypothesis.settings.load_profile("conformance" if CONFORMANCE else "ci")


@pytest.fixture(params=["exact", "fast"])
def numerics(request):
    """Runs a test once bit for bit and once with compiled kernels."""
    return request.param


@pytest.fixture(autouse=True)
def clean_torch():
    """Every test starts and ends with PyTorch's global switches as they are by default."""
    import torch

    # Small tensors gain nothing from threads, and idle teams spin; test_number_of_threads_is_context uses more.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
