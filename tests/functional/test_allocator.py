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
    faults = []
    for _ in range(8):  # a busy machine may take pages away in between, not each time
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(size // 4)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults) < 0.1 * size / 4096
