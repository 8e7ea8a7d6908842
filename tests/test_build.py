"""The architecture named in the settings is the one that is built."""

from cmir.network.build import build_network
from cmir.network.cmirnet_model import CmirNet
from cmir.network.image_tower import ImageTowerConfig
from cmir.network.model import CmirNetConfig, NetworkConfig, SharedSpaceNet


def test_the_architecture_decides_what_is_built() -> None:
    ours = NetworkConfig(modalities=("pan",), image=ImageTowerConfig(width=32, depths=(1,)))
    sizes = {"num_bands": {"pan": 1, "ms": 4}, "chip_size_px": {"pan": 16, "ms": 16}}
    settings = CmirNetConfig.model_validate({"classes": ("river", "water"), "multi_label": False, **sizes})
    published = NetworkConfig(modalities=("pan", "ms"), architecture="cmirnet", cmirnet=settings)
    assert isinstance(build_network(ours), SharedSpaceNet)
    assert isinstance(build_network(published), CmirNet)
