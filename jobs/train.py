"""Shards become a bundle: Ray Train's TorchTrainer runs the plain-torch loop on its workers and keeps checkpoints.

Work in progress, checkpoints included, stands in `<output>.partial`, with the bundles `best` and `last` of the
validations so far; a worker that dies is replaced and goes on from the last checkpoint by itself, a job that died goes
on with --resume. The output is the best bundle, with the last one as `last` in it.
"""

if __name__ == "__main__":  # before anything that jobs/ could shadow is imported
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import importlib.util
import math
import os
import re
from typing import Any, Literal, Self

import ray
from pydantic import Field, ValidationInfo, field_validator, model_validator

from cmir.archive import storage
from cmir.archive.output import Output
from cmir.archive.schema import IMAGE_MODALITIES
from cmir.errors import CmirError, ConfigError, DataError
from cmir.network.bundle import verify_bundle
from cmir.network.cmirnet_learner import check_stages
from cmir.network.embedder import resolve_device
from cmir.network.precision import TrainingPrecision
from cmir.network.pretrained_source import OWN_TOWER, absolute, is_folder
from cmir.network.pretrained_training import check_towers
from cmir.network.space import SPACE_CODE_VERSION
from cmir.network.trackers import mlflow_client
from cmir.network.training_data import read_catalogues
from cmir.network.training_settings import (
    Compile,
    Objective,
    Preset,
    TrainSettings,
    Unspoken,
    check_accumulation,
    check_precision,
    check_term,
    check_terms_left,
    check_tower,
    check_tuning,
    weight_settings,
)
from jobs import cluster, entrypoint
from jobs.entrypoint import JobConfig, JobResult

_CHECKPOINTS = "_checkpoints"
_MAX_WORKER_FAILURES = 10  # workers and nodes that go; what fails for a reason in the data is not tried again


class TrainConfig(JobConfig):
    """Train a network on the train split of an archive and write it as a bundle."""

    shards: tuple[str, ...] = Field(min_length=1, description="Archive, folder or shard; may be given several times.")
    output: str = Field(description="Where the bundle goes; must not exist yet.")
    preset: Preset = Field("all", description="Which modalities: pan and ms, rgb and speech, or all that are there.")
    objective: Objective = Field("contrastive", description="Ours, or the published one to compare with.")
    image_tower: str = Field(OWN_TOWER, description="Ours, or a pretrained ViT, DINO, SigLIP: folder or hub id.")
    speech_tower: str = Field(
        OWN_TOWER, description="Ours, or a pretrained wav2vec2, HuBERT, WavLM, Whisper: folder or hub id."
    )
    tune_towers: bool = Field(False, description="Train pretrained towers too; else they stay as they are.")
    tower_learning_rate: float = Field(3e-5, gt=0, description="Highest learning rate of tuned towers.")
    chip_size_px: int | None = Field(
        None,
        ge=16,
        description="Side of all chips; else 128 for rgb, 64 for others (pan-ms: 128 and 96), or a tower's own.",
    )
    dim: int = Field(128, ge=2, le=4096, description="Components of an embedding.")
    num_workers: str | None = Field(None, description="N, or MIN:MAX to grow and shrink; one per GPU, or 2 on CPUs.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="What trains; gloo on CPU, NCCL on CUDA.")
    max_steps: int | None = Field(None, ge=1, description="End after so many steps.")
    max_minutes: float = Field(19.0, gt=0, description="End after so many minutes, reading the shards included.")
    grounds_per_batch: int = Field(
        32, ge=1, description="Places of a step of all workers together, each with all its chips."
    )
    utterances_per_batch: int = Field(24, ge=1, description="Utterances of a step of all workers together.")
    unspoken_labels: Unspoken = Field(
        "refuse", description="Labels of chips that no utterance of split train says: refuse them, or keep them."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of weights, order and augmentation.")
    init_from: str | None = Field(None, description="A bundle to start from.")
    ablate: str | None = Field(None, description="Leave a term of the objective out.")
    accumulation_steps: int = Field(
        1, ge=1, description="Parts in which a step's chips go through the network, to save memory."
    )
    patience: int | None = Field(None, ge=1, description="End after so many validations without a better score.")
    compile: Compile = Field("cuda", description="Compile the image trunk: on CUDA, never, or always.")
    precision: TrainingPrecision = Field("auto", description="bf16 where the device has units for it, or fp32.")
    mlflow: str | None = Field(None, description="MLflow server or sqlite:////path.db; or MLFLOW_TRACKING_URI.")
    weights: dict[str, float] | None = Field(None, description="Weights other than the default ones, as TERM=X,TERM=X.")
    resume: bool = Field(False, description="Go on with a partial output of the same command.")
    overwrite: bool = Field(False, description="Replace an existing output once the new one is whole.")

    @field_validator("num_workers")
    @classmethod
    def _count_or_range(cls, value: str | None) -> str | None:
        if value is None:
            return None
        match = re.fullmatch(r"(\d+)(?::(\d+))?", value)
        if not match or int(match[1]) < 1 or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError("expected N or MIN:MAX, with 1 <= MIN <= MAX")
        return value

    @field_validator("mlflow")
    @classmethod
    def _the_same_on_every_node(cls, value: str | None) -> str | None:
        is_relative = value is not None and value.startswith("sqlite:///") and not value.startswith("sqlite:////")
        if value is not None and (is_relative or not re.match(r"\w[\w+]*://|databricks", value)):
            raise ValueError("expected http(s)://host:port or sqlite:////absolute/path.db")
        return value

    @field_validator("ablate")
    @classmethod
    def _term_of_the_objective(cls, value: str | None, info: ValidationInfo) -> str | None:
        check_term(info.data.get("objective", "contrastive"), value)
        return value

    @field_validator("accumulation_steps")
    @classmethod
    def _can_be_divided(cls, value: int, info: ValidationInfo) -> int:
        check_accumulation(info.data.get("objective", "contrastive"), value)
        return value

    @field_validator("precision")
    @classmethod
    def _precision_of_the_objective(cls, value: TrainingPrecision, info: ValidationInfo) -> TrainingPrecision:
        check_precision(info.data.get("objective", "contrastive"), value)
        return value

    @field_validator("weights", mode="before")
    @classmethod
    def _named_numbers(cls, value: object) -> object:
        """TERM=X,TERM=X as a mapping; a mapping (of --config) as it is."""
        if not isinstance(value, str):
            return value
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        return {name.strip(): number for name, _, number in parts}

    @field_validator("weights")
    @classmethod
    def _weights_of_the_objective(cls, value: dict[str, float] | None, info: ValidationInfo) -> dict[str, float] | None:
        if any(not number >= 0 for name, number in (value or {}).items() if name != "alpha"):
            raise ValueError("a weight is 0 or more")
        weight_settings(info.data.get("objective", "contrastive"), value or {})
        return value

    @field_validator("image_tower", "speech_tower")
    @classmethod
    def _tower_of_the_objective(cls, value: str, info: ValidationInfo) -> str:
        check_tower(info.data.get("objective", "contrastive"), value)
        return value

    @field_validator("tune_towers")
    @classmethod
    def _something_to_tune(cls, value: bool, info: ValidationInfo) -> bool:
        check_tuning(value, *(info.data.get(name, OWN_TOWER) for name in ("image_tower", "speech_tower")))
        return value

    @model_validator(mode="after")
    def _terms_are_left(self) -> Self:
        check_terms_left(self.objective, self.preset, self.weights or {}, self.ablate)
        return self

    def uris(self) -> list[str]:
        """Folders of pretrained towers included."""
        return super().uris() + [tower for tower in (self.image_tower, self.speech_tower) if is_folder(tower)]

    def settings(self) -> TrainSettings:
        """What the training itself is told."""
        values = self.model_dump(include=set(TrainSettings.model_fields), exclude={"weights"})
        side_px = values.pop("chip_size_px")
        sizes = {"chip_size_px": dict.fromkeys(IMAGE_MODALITIES, side_px)} if side_px else {}
        towers = {name: absolute(values[name]) for name in ("image_tower", "speech_tower")}
        weights = weight_settings(self.objective, self.weights or {})
        return TrainSettings.model_validate({**values, **sizes, **towers, **weights})


def run(config: TrainConfig) -> JobResult:
    """Check the input, claim the output, train, put the bundle in its place."""
    with entrypoint.before_work():
        if config.device == "cuda" and not os.environ.get("RAY_ADDRESS"):
            resolve_device("cuda")  # this machine is the cluster; a given one may have, or start, what is not here
        catalogues = read_catalogues(config.settings(), config.shards)
        modalities = catalogues.modalities
        if config.objective == "cmirnet" and len(modalities) != 2:
            fix = "use --preset pan-ms or image-speech"
            raise ConfigError("objective cmirnet joins two modalities", seen=", ".join(modalities), expected=2, fix=fix)
        if config.init_from is not None:
            verify_bundle(config.init_from)
        check_towers(config.settings(), modalities)
        if config.objective == "cmirnet":
            check_stages(config.settings(), modalities, catalogues.train)
        mlflow_uri = _mlflow_uri(config)
        if mlflow_uri is not None:
            mlflow_client(mlflow_uri)
        where_and_how_many = {"resume", "overwrite", "num_workers", "device", "compile", "precision", "mlflow"}
        claimed = config.model_dump(mode="json", exclude=where_and_how_many)
        claimed["space_code_version"] = SPACE_CODE_VERSION  # a state of other code is not gone on with
        output = Output.claim(config.output, claimed, resume=config.resume, overwrite=config.overwrite)
    cluster.connect(for_training=True)
    result = train_group(config, config.settings(), output.working_uri, mlflow_uri)
    storage.delete_tree(storage.join(output.working_uri, _CHECKPOINTS))
    output.finish()
    figures = {name: round(value, 4) for name, value in result["figures"].items()}
    last_uri = storage.join(output.uri, "last")
    outputs = {"bundle": output.uri, "last": last_uri, "space_id": str(result["space_id"])}
    speed = {name: round(value, 4) for name, value in result["speed"].items()}
    counts = {name: result[name] for name in ("num_steps", "num_steps_before")}
    details = {"validation": figures, "stopped_early": result["stopped_early"], "speed": speed}
    if catalogues.unspoken_labels:
        details["unspoken_labels"] = list(catalogues.unspoken_labels)
    return JobResult(outputs, counts, details)


def _mlflow_uri(config: TrainConfig) -> str | None:
    """Where MLflow is to be told, if anywhere; the standard variable is heeded where MLflow is installed."""
    known = os.environ.get("MLFLOW_TRACKING_URI") if importlib.util.find_spec("mlflow") else None
    return config.mlflow or known


def train_group(
    config: TrainConfig, settings: TrainSettings, working_uri: str, mlflow_uri: str | None = None
) -> dict[str, Any]:
    """Run the worker group; returns what rank 0 returned. Raises the CmirError that a worker ended with."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    from jobs.training_worker import WorkerTask, train_worker

    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    on_gpu = config.device == "cuda" or (config.device == "auto" and num_gpus > 0)
    # two workers of one thread use two cores better than one of two threads
    workers = _worker_range(config.num_workers or str(max(1, num_gpus) if on_gpu else min(2, cluster.num_cpus())))
    num_threads = _cores_per_worker(workers[1])
    task = WorkerTask(
        settings=settings,
        shard_uris=tuple(storage.absolute(uri) for uri in config.shards),
        bundle_uri=working_uri,
        init_from=storage.absolute(config.init_from) if config.init_from else None,
        num_threads=num_threads,
        device="cuda" if on_gpu else "cpu",
        mlflow_uri=mlflow_uri,
    )
    filesystem, path = storage.arrow_filesystem(storage.join(working_uri, _CHECKPOINTS))
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=task.loop_config(),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers if workers[0] < workers[1] else workers[1],
            use_gpu=on_gpu,
            resources_per_worker={"CPU": num_threads, **({"GPU": 1} if on_gpu else {})},
        ),
        run_config=RunConfig(
            name="run",
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=_MAX_WORKER_FAILURES),
        ),
    )
    try:
        returned: dict[str, Any] = trainer.fit().return_value
    except TrainingFailedError as error:
        raise _worker_error(error) from error
    if "error" in returned:
        raise returned["error"]
    return returned


def _worker_error(error: Exception) -> CmirError:
    """What a worker said, where it said it in our words; else that the training failed, with the first line of why."""
    for failure in getattr(error, "worker_failures", {}).values():
        for candidate in (failure, getattr(failure, "cause", None), failure.__cause__):
            if isinstance(candidate, CmirError):
                return candidate
    lines = [line for line in str(error).splitlines() if line.strip()]
    fix = "read the workers' log above; --resume goes on from the last checkpoint, where one was kept"
    return DataError("training failed", seen=lines[-1] if lines else type(error).__name__, fix=fix)


def _worker_range(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    return int(low), int(high or low)


def _cores_per_worker(num_workers: int) -> int:
    """Cores for each worker when they are spread evenly over the nodes; at least one."""
    cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    nodes = [num_cores for num_cores in cores if num_cores >= 1]  # a head without cores gets no worker
    workers_per_node = math.ceil(num_workers / max(1, len(nodes)))
    return max(1, int(min(nodes, default=1)) // workers_per_node)


if __name__ == "__main__":
    entrypoint.main("train", TrainConfig, run)
