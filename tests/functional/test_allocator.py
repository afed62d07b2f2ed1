import resource
import sys

import pytest
import torch

from retrieval_kd.functional.allocator import reuse_memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_a_freed_tensor_makes_room_for_the_next_without_page_faults():
    assert reuse_memory()
    size = 40 << 20  # above what glibc maps one by one
    torch.ones(size // 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(size // 4)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 0.2 * 5 * size / 4096
