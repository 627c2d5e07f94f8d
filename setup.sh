#!/usr/bin/env bash
# Makes the virtual environment $VENV with the package and its extras. Needs Python >= 3.10, git,
# make and a C++ compiler. FFCV also needs system headers: they are installed with apt where that
# is allowed, else the line to run is printed and everything but FFCV is set up.
set -euo pipefail

python="${PYTHON:-python3}"
venv="${VENV:-.venv}"
headers=(libopencv-dev libturbojpeg0-dev pkg-config)

"$python" - <<'CHECK' || exit 1
import sys
if sys.version_info < (3, 10):
    sys.exit("error: Python 3.10 or newer is needed; set PYTHON, as in: make setup PYTHON=python3.12")
CHECK

have_headers() { pkg-config --exists opencv4 libturbojpeg 2>/dev/null; }

install_headers() {
    command -v apt-get >/dev/null || return 1
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    echo "FFCV's system headers are missing: installing ${headers[*]} with apt"
    "${as_root[@]}" apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq \
            --no-install-recommends "${headers[@]}" >/dev/null
}

without_ffcv() {
    echo "FFCV is left out ($1); the memory loader serves instead. To have it, run" >&2
    echo "    sudo apt-get install -y ${headers[*]} && rm -f $venv/ready && make setup" >&2
}

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
"$venv/bin/python" -m pip install --quiet --editable ".[tune,eval,onnx,mlflow,wandb,test,dev]"
# It asks for a version of requests from 2020, which it never imports and MLflow can't use.
"$venv/bin/python" -m pip install --quiet --no-deps "torchattacks>=3.5.1"
if have_headers || install_headers; then
    "$venv/bin/python" -m pip install --quiet --editable ".[ffcv]" ||
        without_ffcv "it could not be built"
else
    without_ffcv "its system headers are missing"
fi
