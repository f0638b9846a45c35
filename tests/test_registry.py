"""What is registered is found by everybody under its own name."""

import pytest
from mmengine import registry as root
from mmengine.registry import DefaultScope, Registry

from mmkd import registry

OWN = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}
ROOTS = {name: 'TASK_UTILS' if name == 'SCHEDULES' else name for name in OWN}


@pytest.mark.parametrize('name', OWN)
def test_each_registry_is_a_child_of_mmengines(name):
    own, parent = OWN[name], getattr(root, ROOTS[name])
    assert (own.scope, own.parent) == ('mmkd', parent)
    assert own.name == parent.name


@pytest.mark.parametrize('name', OWN)
def test_all_that_is_registered_is_found_by_its_full_name(name):
    own, parent = OWN[name], getattr(root, ROOTS[name])
    assert own.module_dict
    for key, value in own.module_dict.items():
        assert parent.get(f'mmkd.{key}') is own.get(key) is value
        assert parent.get(key) is None


def test_in_its_scope_a_short_name_is_enough():
    with DefaultScope.overwrite_default_scope('mmkd'):
        assert type(root.MODELS.build(dict(type='PKD'))).__module__ == 'mmkd.methods.pkd'
