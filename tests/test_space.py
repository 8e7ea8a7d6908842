"""A space_id changes with everything that decides an embedding and with nothing else."""

from cmir.network.image_tower import ImageTowerConfig
from cmir.network.model import NetworkConfig, SharedSpaceNet
from cmir.network.preprocessing import Preprocessing
from cmir.network.space import space_id_of


def test_space_id_names_what_decides_an_embedding() -> None:
    network = NetworkConfig(
        modalities=("pan",), dim=8, labels=("sea", "ship"), image=ImageTowerConfig(width=32, depths=(1,))
    )
    tensors = SharedSpaceNet(network).state_dict()
    config = network.model_dump(mode="json")
    preprocessing = Preprocessing(chip_size_px={"pan": 32}).model_dump(mode="json")
    first = space_id_of(tensors, config, preprocessing)
    assert first.startswith("s")
    assert len(first) == 17
    assert space_id_of(dict(reversed(tensors.items())), config, preprocessing) == first
    nudged = {**tensors, "logit_bias": tensors["logit_bias"] + 1e-6}
    renamed = {("bias" if name == "logit_bias" else name): tensor for name, tensor in tensors.items()}
    halved = {**tensors, "logit_bias": tensors["logit_bias"].half()}
    reshaped = {**tensors, "prototypes": tensors["prototypes"].T}
    others = [
        space_id_of(nudged, config, preprocessing),
        space_id_of(renamed, config, preprocessing),
        space_id_of(halved, config, preprocessing),
        space_id_of(reshaped, config, preprocessing),
        space_id_of(tensors, {**config, "labels": ["sea", "sand"]}, preprocessing),
        space_id_of(tensors, config, {**preprocessing, "chip_size_px": {"pan": 48}}),
    ]
    assert len({first, *others}) == 7
