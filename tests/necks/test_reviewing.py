"""The fusion of stages, with attention by hand."""

import torch
import torch.nn.functional as F

from mmkd.necks import Reviewer


def test_each_level_is_mixed_with_the_deeper_one_by_attention():
    reviewer = Reviewer([4, 8], [6, 5], 7).eval()
    shallow, deep = torch.randn(2, 4, 6, 6), torch.randn(2, 8, 3, 3)
    x, y = reviewer.enter[0](shallow), reviewer.enter[1](deep)
    enlarged = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
    z = torch.sigmoid(reviewer.attend[0](torch.cat([x, enlarged], 1)))
    mixed = x * z[:, 0:1] + enlarged * z[:, 1:2]
    got = reviewer([shallow, deep], [(6, 6), (3, 3)])
    torch.testing.assert_close(got[0], reviewer.leave[0](mixed))
    torch.testing.assert_close(got[1], reviewer.leave[1](y))
    assert [m.shape[1] for m in got] == [6, 5]


def test_maps_get_the_sizes_of_the_teachers():
    reviewer = Reviewer([4], [6], 7).eval()
    maps = torch.randn(1, 4, 3, 3)
    (got,) = reviewer([maps], [(6, 6)])
    expected = F.interpolate(reviewer.leave[0](reviewer.enter[0](maps)), (6, 6))
    torch.testing.assert_close(got, expected)
