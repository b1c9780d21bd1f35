import pytest
from mine import Mine

from kstack.testing import PolicyConformance


class TestConformance(PolicyConformance):
    policy = Mine


@pytest.mark.policy(cls=Mine)
@pytest.mark.schedules(5)
@pytest.mark.parametrize("scenario", ["laight", "test_guest.toml"])
def test_it_is_safe(guest, scenario):
    assert (run := guest(scenario)).passed and (run.result.exercised or scenario != "laight")  # 0: not put to the test
