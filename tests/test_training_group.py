"""Two workers of a gloo group: resume exactly, share what is too little for both, and agree on what they see."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cmir.errors import ConfigError
from cmir.network.bundle import load_bundle
from cmir.network.learner import share_weights
from cmir.network.precision import is_bfloat16
from cmir.network.training import SaveState, fit
from tests.tiny_archives import chip_row, tiny_settings, tone_row, write_archive

CPU = torch.device("cpu")


class StoppedError(Exception):
    """Stands for whatever ends a process in the middle."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes have done all that the tests below look at."""
    folder = tmp_path_factory.mktemp("group")
    rows = [chip_row(i, name) for i in range(9) for name in ("pan", "ms")]  # type: ignore[arg-type]
    write_archive(folder / "archive", rows + [tone_row(i) for i in range(7)])
    write_archive(folder / "few", [chip_row(i, name) for i in range(3) for name in ("pan", "ms")])  # type: ignore[arg-type]
    for rank, names in enumerate((("field", "sea"), ("field", "trees"))):
        write_archive(folder / f"seen-by-{rank}", [chip_row(i, "rgb", labels=(names[i % 2],)) for i in range(6)])
    mp.spawn(one_of_two, args=(str(folder),), nprocs=2)
    return folder


def one_of_two(rank: int, place: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    folder = Path(place)
    train(folder, "archive", "whole")
    num_checks = 0

    def stop_at_five(figures: Mapping[str, float], save_state: SaveState | None) -> None:
        nonlocal num_checks
        num_checks += 1
        if num_checks == 5:
            assert (save_state is None) == (rank == 1)
            if save_state is not None:
                save_state(folder / "state.pt")
            dist.barrier()
            raise StoppedError

    try:
        train(folder, "archive", "stopped", on_checkpoint=stop_at_five, validate_every_s=1e-9)
    except StoppedError:
        dist.barrier()
    train(folder, "archive", "resumed", resume_from=folder / "state.pt")
    train(folder, "few", "few", grounds_per_batch=1, max_steps=6)
    torch.manual_seed(rank)
    drifted = torch.nn.Linear(3, 2).to(torch.float32)
    share_weights(drifted)
    torch.save(drifted.state_dict(), folder / f"shared-{rank}.pt")
    torch.cpu.get_capabilities = lambda: {"amx_bf16": rank == 0}
    assert not is_bfloat16("auto", CPU), "what one of them cannot, none does"
    try:
        fit(tiny_settings(), [str(folder / f"seen-by-{rank}")], str(folder / "unequal"), device=CPU)
    except ConfigError as error:
        (folder / f"error-{rank}").write_text(str(error))
    try:
        fit(tiny_settings(), [str(folder / ("archive" if rank else "nowhere"))], str(folder / "one"), device=CPU)
    except Exception as error:
        (folder / f"missing-{rank}").write_text(f"{type(error).__name__} {error}")
    dist.destroy_process_group()


def train(folder: Path, archive: str, name: str, **changed: object) -> None:
    told = {key: changed.pop(key, None) for key in ("on_checkpoint", "resume_from")}
    result = fit(tiny_settings(**changed), [str(folder / archive)], str(folder / name), device=CPU, **told)  # type: ignore[arg-type]
    torch.save(result.num_steps, folder / f"{name}-steps-{dist.get_rank()}.pt")


def test_ten_steps_are_five_and_a_resume_and_five(done: Path) -> None:
    whole, resumed = (load_bundle(str(done / name)) for name in ("whole", "resumed"))
    assert not (done / "stopped" / "config.json").exists(), "no bundle before the end"
    theirs = resumed.net.state_dict()
    for name, tensor in whole.net.state_dict().items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-6, rtol=1e-5, msg=name)
    assert [torch.load(done / f"resumed-steps-{rank}.pt") for rank in (0, 1)] == [10, 10]


def test_a_worker_without_a_share_of_a_step_goes_along(done: Path) -> None:
    assert [torch.load(done / f"few-steps-{rank}.pt") for rank in (0, 1)] == [6, 6]
    load_bundle(str(done / "few"))


def test_workers_that_see_different_labels_are_all_told_before_the_first_step(done: Path) -> None:
    errors = [(done / f"error-{rank}").read_text() for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert (
        'workers see different archives: seen labels: worker 0 ["field", "sea"], worker 1 ["field", "trees"]'
        in (errors[0])
    )
    assert not (done / "unequal").exists()


def test_what_one_worker_cannot_read_stops_all_of_them(done: Path) -> None:
    errors = [(done / f"missing-{rank}").read_text() for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert "nowhere" in errors[0]


def test_weights_that_drifted_apart_are_rank_0s_again(done: Path) -> None:
    mine, theirs = (torch.load(done / f"shared-{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.manual_seed(0)
    first = torch.nn.Linear(3, 2).state_dict()
    for name, tensor in first.items():
        assert torch.equal(mine[name], tensor)
        assert torch.equal(theirs[name], tensor)
