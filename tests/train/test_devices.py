import pytest
import torch

from pnseg_train import devices as devices_module


@pytest.mark.parametrize(("devices", "gpus", "several"), [("1", 4, 0), ("auto", 4, 4), ("auto", 1, 0), ("2", 4, 2)])
def test_however_many_devices_are_meant_they_allow_for_parameters_without_gradient(devices, gpus, several, monkeypatch):
    asked = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(devices_module, "Fabric", lambda **settings: asked.update(settings))
    devices_module.open_fabric("auto", devices, "32-true")
    assert asked["devices"] == (several or 1)
    assert ("strategy" in asked) == bool(several)
    if several:
        assert asked["strategy"]._ddp_kwargs == {"find_unused_parameters": True}
        assert asked["num_nodes"] == 1
