"""`python -m tests.train_driver FLAGS`: the train job with a tiny network and a checkpoint every second."""

import sys

from jobs import train
from jobs.entrypoint import run_command
from tests.tiny_archives import tiny_settings


def tiny(config: train.TrainConfig) -> train.TrainSettings:
    """What tests train: the command's number of steps."""
    return tiny_settings(max_steps=config.max_steps, validate_every_s=1.0, max_minutes=10.0)


if __name__ == "__main__":
    train.TrainConfig.settings = tiny  # type: ignore[method-assign]
    sys.exit(run_command("train", train.TrainConfig, train.run, sys.argv[1:]))
