#!/bin/sh
# usage: test_versions.sh lowest|newest
# The unit tests in a virtual environment of its own, with the lowest direct dependencies that pyproject.toml
# allows, or the newest that the index has.
set -eu
which=$1
cd "$(dirname "$0")/.."
venv=.venv-$which
python=${PYTHON:-python3}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check uv
if [ "$which" = lowest ]; then resolution=lowest-direct; else resolution=highest; fi
"$venv/bin/uv" pip install -q --python "$venv/bin/python" --upgrade --resolution "$resolution" -e '.[dev]'
"$venv/bin/uv" pip list --python "$venv/bin/python" | grep -iE '^(adbutils|ncnn|numpy|onnx|onnxruntime|onnxsim|pillow|pydantic|rich|typer) '
"$venv/bin/python" -m pytest -n auto tests/unit -m 'not network and not device'
