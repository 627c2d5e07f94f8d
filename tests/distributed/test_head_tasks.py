"""What needs PyTorch on the head, and the processes that live long there and do not have it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynat_ray.distributed import head_tasks
from dynat_ray.distributed.head_tasks import begin_on_head, on_head
from dynat_ray.errors import UserError

# A trial's process: what it imports, and with what it starts a training, which the controller gets.
TRIAL = """
from dynat_ray.distributed import ray_trainer, trials
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.distributed.tune_reports import ReportToTune
from dynat_ray.settings import build_config
from dynat_ray.tracking import tensorboard

report = ReportToTune.__new__(ReportToTune)
trainer = ray_trainer._trainer(
    build_config([]), Path(sys.argv[1]), None, StopFlag("a", "b"), ray_trainer.Workers(1, 2, False),
    [report],
)
given = ray.cloudpickle.dumps(
    (trainer.backend_config, trainer.run_config, trainer.scaling_config, report)
)
Path(sys.argv[1], "given").write_bytes(given)
print(json.dumps(sorted({"torch", "torchvision", "timm"} & sys.modules.keys())))
"""
CONTROLLER = """
group, options, *_ = ray.cloudpickle.loads(Path(sys.argv[1], "given").read_bytes())
assert group.backend_cls().share_cuda_visible_devices
assert len(options.callbacks) == 2
print(json.dumps(sorted({"torch", "torchvision", "timm"} & sys.modules.keys())))
"""
# Both import Ray, which takes longer than all else; the trial's process is forked from there.
BOTH = f"""
import json, os, sys
from pathlib import Path
import ray.train

child = os.fork()
if child == 0:
    status = 1
    try:
        exec({TRIAL!r})
        sys.stdout.flush()
        status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
exec({CONTROLLER!r})
"""


def test_neither_a_trials_process_nor_its_controller_imports_pytorch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOTH, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[], []]


def elsewhere(words: str) -> tuple[int, str]:
    if not words:
        raise UserError("no words")
    return os.getpid(), f"{words} {os.environ['OMP_NUM_THREADS']}"


@pytest.mark.usefixtures("local_ray")
def test_what_is_done_beside_comes_back() -> None:
    process, words = on_head(elsewhere, "hello")
    assert process != os.getpid()
    assert words == "hello 1"
    with pytest.raises(UserError, match="^no words$"):
        on_head(elsewhere, "")


@pytest.mark.parametrize(
    ("cores", "memory", "share"), [(1, 1e9, 0.5), (8, 1e9, 0.5), (8, 24e9, 0.2), (4, 1e12, 0.2)]
)
def test_few_are_done_at_once_and_there_is_always_room_for_one(
    cores: int, memory: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, float]] = []

    class Ray:
        @staticmethod
        def remote(*, resources: dict[str, float], **options: object) -> object:
            asked.append(resources)
            return lambda function: type("Task", (), {"remote": function})

    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(head_tasks, "head_memory", lambda: memory)
    monkeypatch.setattr(head_tasks, "ray", Ray)
    assert begin_on_head(len, "four") == 4
    assert asked == [{"node:__internal_head__": share}]
