"""The Slurm script and the other shell of the repository, and one run of it with a stand-in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm" / "train.sbatch"
CLUSTER = ROOT / "cluster"
SPOT_WATCH = CLUSTER / "ray-up" / "spot_watch.sh"
SHELL = [SCRIPT, ROOT / "setup.sh", CLUSTER / "unfilled.sh", SPOT_WATCH]
_PATIENCE = 60


@pytest.mark.parametrize("file", SHELL, ids=[file.name for file in SHELL])
def test_shell_is_sound(file: Path) -> None:
    subprocess.run(["bash", "-n", file], check=True)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# What Slurm and Ray would do, on one machine: `ray symmetric-run` runs what follows `--`. What
# comes before goes to `ray start` on every node, and away from the head that refuses some options.
STANDINS = {
    "scontrol": 'case $1 in show) printf "node-a\\nnode-b\\n";; *) echo "$@" >>"$RECORD";; esac',
    "srun": 'echo "srun $*" >>"$RECORD"; while [ "$1" != bash ]; do shift; done; "$@"',
    "ray": 'echo "ray $*" >>"$RECORD"\n'
    'modes=$(stat -c %a "$RAY_AUTH_TOKEN_PATH" "$RAY_TMPDIR")\n'
    'echo "$RAY_AUTH_MODE $modes $(umask)" >>"$RECORD"\n'
    '[ -z "${NO_HEAD:-}" ] || exit 0\n'
    'while [ "$1" != -- ]; do case $1 in --include-dashboard*|--port*|--redis-shard-ports*) '
    'echo "$1 should only be specified when starting head node"; exit 1;; esac; shift; done\n'
    'shift; "$@"',
    "python": 'case $1 in -c) exec "$REAL_PYTHON" "$@";; esac\n'
    'echo "$RAY_ADDRESS $*" >>"$RECORD"\n'
    'trap \'echo told >>"$RECORD"; exit 143\' TERM; touch "$STARTED"\n'
    'for _ in $(seq "$TENTHS"); do sleep 0.1; done',
}


def start(folder: Path, tenths: int, **more: str) -> subprocess.Popen[str]:
    programs = folder / "environment" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    for name, body in STANDINS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "REAL_PYTHON": sys.executable,
        "RECORD": str(folder / "record"),
        "STARTED": str(folder / "started"),
        "TENTHS": str(tenths),
        "VENV": str(folder / "environment"),
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NAME": "dynat-ray",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "3",
        "SLURM_GPUS_ON_NODE": "4",
        **more,
    }
    return subprocess.Popen(
        ["bash", SCRIPT, "--recipe", "digits"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_script_runs_one_command_with_a_token_of_its_own(tmp_path: Path) -> None:
    process = start(tmp_path, tenths=1)
    output, _ = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 0, output
    record = (tmp_path / "record").read_text().splitlines()
    assert record[0].startswith(
        "srun --ntasks=2 --ntasks-per-node=1 --cpus-per-task=3 --kill-on-bad-exit=1 --wait=60 bash"
    )
    ray, token, folder, driver = (line.split() for line in record[-4:])
    assert " ".join(ray).startswith(
        "ray symmetric-run --address node-a:23456 --min-nodes 2 --num-cpus=3 --num-gpus=4 -- "
    )
    # Token and folder are the user's alone, and only they.
    assert (token, folder) == (["token", "600"], ["700", "0022"])
    address, *command = driver
    assert address == "node-a:23456"
    assert command[:4] == ["-m", "dynat_ray.train", "--name", "dynat-ray-123456"]
    assert command[-3:] == ["--recipe", "digits", "--resume"]
    assert not list(tmp_path.glob(".ray-token-*")) + list(tmp_path.glob(".driver-*"))
    assert not Path("/tmp/ray-123456").exists()


def test_a_head_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    """`ray symmetric-run` exits with 0 then."""
    process = start(tmp_path, tenths=1, NO_HEAD="1")
    output, _ = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 1
    assert "error: Ray did not start on node-a" in output


def test_what_slurm_is_asked_for() -> None:
    wanted = [x.split(maxsplit=1)[1] for x in SCRIPT.read_text().splitlines() if x[:7] == "#SBATCH"]
    assert {"--mem=0", "--open-mode=append", "--requeue", "--signal=B:TERM@300"} <= set(wanted)


def test_a_notice_reaches_the_command_and_the_job_queues_again(tmp_path: Path) -> None:
    process = start(tmp_path, tenths=10 * _PATIENCE)
    for _ in range(10 * _PATIENCE):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 143, output
    record = (tmp_path / "record").read_text().splitlines()
    assert record[-2:] == ["told", "requeue 123456"]


def test_a_spot_notice_drains_the_node(tmp_path: Path) -> None:
    """AWS's metadata say nothing at first (404), then that the node goes."""
    programs = tmp_path / "bin"
    programs.mkdir()
    bodies = {
        "ray": 'echo "$@" >"$RECORD"',
        "curl": 'case "$*" in *api/token*) echo abc;; *"token: abc"*instance-action)\n'
        '[ -e "$RECORD.asked" ] || { touch "$RECORD.asked"; exit 22; };; *) exit 22;; esac',
    }
    for name, body in bodies.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RECORD": str(tmp_path / "record"),
        "POLL_SECONDS": "0.1",
    }
    subprocess.run(["bash", SPOT_WATCH], env=environment, check=True, timeout=_PATIENCE)
    assert (tmp_path / "record.asked").exists()
    words = (tmp_path / "record").read_text()
    assert words.startswith("drain-node --reason DRAIN_NODE_REASON_PREEMPTION ")
    assert words.endswith("--deadline-remaining-seconds 90\n")
