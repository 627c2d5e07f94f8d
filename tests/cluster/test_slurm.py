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
SHELL = [SCRIPT, ROOT / "setup.sh", ROOT / "cluster" / "unfilled.sh"]
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
    "srun": 'echo "srun $*" >>"$RECORD"; while [ "$1" != ray ]; do shift; done; "$@"',
    "ray": 'echo "$RAY_AUTH_MODE $(stat -c %a "$RAY_AUTH_TOKEN_PATH")" >>"$RECORD"\n'
    'while [ "$1" != -- ]; do case $1 in --include-dashboard*|--port*|--redis-shard-ports*) '
    'echo "$1 should only be specified when starting head node"; exit 1;; esac; shift; done\n'
    'shift; "$@"',
    "python": 'case $1 in -c) exec "$REAL_PYTHON" "$@";; esac\n'
    'echo "$RAY_ADDRESS $*" >>"$RECORD"\n'
    'trap \'echo told >>"$RECORD"; exit 143\' TERM; touch "$STARTED"\n'
    'for _ in $(seq "$TENTHS"); do sleep 0.1; done',
}


def start(folder: Path, tenths: int) -> subprocess.Popen[str]:
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
        "srun --ntasks=2 --ntasks-per-node=1 --cpus-per-task=3 ray symmetric-run --address "
    )
    assert "--num-cpus=3 " in record[0]
    assert "--address node-a:23456 --min-nodes 2 " in record[0]
    assert record[1] == "token 600"
    address, _, command = record[2].partition(" ")
    assert address == "node-a:23456"
    assert command.startswith("-m dynat_ray.train --name dynat-ray-123456 ")
    assert command.endswith("--recipe digits --resume")
    assert len(record) == 3
    assert not list(tmp_path.glob(".ray-token-*")) + list(tmp_path.glob(".driver-*"))


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
