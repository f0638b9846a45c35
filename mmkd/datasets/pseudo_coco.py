"""Boxes that a network has drawn, with its scores, as a data set of mmdet."""

from __future__ import annotations

from typing import Any

from mmdet.datasets import CocoDataset

from ..errors import InputError
from .scores import class_of, unpack_scores, with_score


class PseudoCoco(CocoDataset):
    """A COCO file whose annotations have a ``score``, as ``mmkd label`` writes it.

    It can stand wherever mmdet's ``CocoDataset`` stands, also beside real labels in a ``ConcatDataset``.
    Samples have the scores in ``gt_instances.scores``; where an outer data set mixes images,
    ``mmkd.WeighByScore`` reads them from the labels.

    Args:
        score_thr: boxes below are left out.
        weight_by_score: whether scores are kept; without them a box is as good as a real one.
        **options: those of ``CocoDataset``.
    """

    def __init__(
        self, *args: Any, score_thr: float = 0.0, weight_by_score: bool = True, **options: Any
    ) -> None:
        if not 0 <= score_thr <= 1:
            raise InputError(f'PseudoCoco: score_thr={score_thr!r}; needed: a number from 0 to 1')
        self.score_thr, self.weight_by_score = score_thr, weight_by_score
        super().__init__(*args, **options)

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any]:
        """One image; each label carries its box's score."""
        self._order_classes()
        info = super().parse_data_info({**raw_data_info, 'raw_ann_info': []})
        for annotation in raw_data_info['raw_ann_info']:
            score = float(annotation.get('score', 1.0))
            if score < self.score_thr:
                continue
            one = super().parse_data_info({**raw_data_info, 'raw_ann_info': [annotation]})
            for instance in one['instances']:
                if self.weight_by_score:
                    instance['bbox_label'] = with_score(instance['bbox_label'], score)
                info['instances'].append(instance)
        return info

    def get_cat_ids(self, idx: int) -> list[int]:
        """The classes in an image."""
        return [class_of(i['bbox_label']) for i in self.get_data_info(idx)['instances']]

    def prepare_data(self, idx: int) -> Any:
        """One sample."""
        data = super().prepare_data(idx)
        if isinstance(data, dict) and 'data_samples' in data:
            unpack_scores(data['data_samples'])
        return data

    def _order_classes(self) -> None:
        """Labels in the order of our classes, whatever that of the file is."""
        names = {c['name']: c['id'] for c in self.coco.load_cats(self.cat_ids)}
        absent = [name for name in self.metainfo['classes'] if name not in names]
        if absent:
            raise InputError(
                f'PseudoCoco: {self.ann_file}: no category {absent[0]!r}, which is among metainfo.classes; '
                'needed: labels of a teacher of the same classes'
            )
        self.cat2label = {names[name]: i for i, name in enumerate(self.metainfo['classes'])}
