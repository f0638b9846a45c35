"""Where a teacher's map lies in memory."""

import pytest
import torch

from mmkd.losses.layout import laid_out_like


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('ours', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('theirs', [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_teachers_map_lies_in_memory_as_the_students_does(ours, theirs, dtype):
    student, teacher = torch.randn(2, 2, 6, 5, 4).unbind()
    student, teacher = student.to(memory_format=ours), teacher.to(dtype, memory_format=theirs)
    found = laid_out_like(student, teacher)
    assert found.dtype == torch.float32
    assert found.stride() == student.stride()
    assert torch.equal(found, teacher.float())
