#!/bin/sh
# Builds every public model as a TensorRT plan in fp32, fp16 and int8, runs it on a GPU, and holds it against ONNX
# Runtime; for a machine with a GPU and no network. Prints one table, writes JSON for benchmarks/results, and leaves with
# 0 (all agree), 1 (something does not), 3 (nothing proven for some) or 4 (no GPU, or none that is served).
#
#   gpu_check.sh --stage DIR [--models A,B]     here: put wheels, models and this script into DIR (needs the network)
#   gpu_check.sh --split DIR PIECES [MIB]       DIR as files of 50 MiB at most, to be carried one by one
#   gpu_check.sh --join PIECES DIR              there: DIR again, its sha256 verified
#   DIR/gpu_check.sh [OPTIONS]                  there: the check itself; --help shows its options
#   DIR/gpu_check.sh --budget 9m --resume       there, again and again: as much as 9 minutes take, behind what is done
#
# PYTHON=python3.12 stages for that Python, which must be the one there (and have the venv module there).
set -eu
here=$(cd "$(dirname "$0")" && pwd)

say() { printf '%s\n' "$*" >&2; }

give_up() {
    say "error: $1"
    say "hint: $2"
    exit "${3:-2}"
}

stage() {
    target=$1
    shift
    root=$(dirname "$here")
    [ -f "$root/pyproject.toml" ] || give_up "$here is not mobilekit's scripts folder" "stage from a checkout"
    python=${PYTHON:-python3}
    mkdir -p "$target/wheels"
    target=$(cd "$target" && pwd)
    say "collecting wheels for $("$python" --version)"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "$python" -m venv "$scratch/venv"
    "$scratch/venv/bin/python" -m pip wheel -q --disable-pip-version-check -w "$target/wheels" "$root[tensorrt]"
    say "collecting models"
    "$scratch/venv/bin/python" -m pip install -q --disable-pip-version-check --no-index \
        --find-links "$target/wheels" mobilekit
    rm -rf "$target/gpu_check"
    cp "$here/gpu_check.sh" "$target/"
    mkdir -p "$target/gpu_check/gpucheck"
    cp "$here/gpu_check/__main__.py" "$target/gpu_check/"
    cp "$here"/gpu_check/gpucheck/*.py "$target/gpu_check/gpucheck/"
    "$scratch/venv/bin/python" "$target/gpu_check" stage "$target" "$@"
    du -sh "$target/wheels" "$target/cache" >&2
}

split_up() {
    from=$1 to=$2 mebibytes=${3:-50}
    mkdir -p "$to"
    [ -z "$(ls -A "$to")" ] || give_up "$to is not empty" "name a new folder"
    # The shell tells only how the last of a pipe ended; half an archive would be split as well as a whole one.
    { tar -C "$from" --exclude=./venv --exclude=./results -cf - . || : >"$to/failed"; } |
        split -b "${mebibytes}m" -d -a 3 - "$to/piece-"
    [ ! -e "$to/failed" ] || {
        rm -f "$to"/piece-* "$to/failed"
        give_up "not all of $from could be read" "look at its files, and split it again" 4
    }
    (cd "$to" && sha256sum piece-* >SHA256SUMS && cp "$here/gpu_check.sh" . && ls -l piece-*) >&2
}

join_up() {
    from=$1 to=$2
    mkdir -p "$to"
    [ -z "$(ls -A "$to")" ] || give_up "$to is not empty" "name a new folder"
    (cd "$from" && sha256sum --quiet -c SHA256SUMS) >&2 ||
        give_up "the pieces in $from are not those that were split" "carry those again" 4
    cat "$from"/piece-* | tar -C "$to" -xf -
}

# The Python that the wheels are for, with the packages that were staged and no others.
venv() {
    version=$(cat "$here/python-version")
    ! "$here/venv/bin/python" -c 'import mobilekit' 2>/dev/null || return 0
    for name in "${PYTHON:-}" "python$version" python3 python; do
        if [ -n "$name" ] && [ "$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$version" ]; then
            rm -rf "$here/venv" "$here/venv.part"
            # Debian's Python comes without ensurepip: then pip, which is there, installs into the environment from without.
            if "$name" -m venv "$here/venv.part" >/dev/null 2>&1; then
                install_into "$here/venv.part/bin/python" >&2
            elif rm -rf "$here/venv.part" && "$name" -m venv --without-pip "$here/venv.part" >&2 && "$name" -m pip --version >&2; then
                install_into "$name" --python "$here/venv.part/bin/python" >&2
            else
                give_up "$name cannot make a virtual environment" "apt install python$version-venv, or stage for another Python" 4
            fi
            mv "$here/venv.part" "$here/venv"
            return 0
        fi
    done
    give_up "there is no Python $version here, which the wheels are for" "name it with PYTHON=/path, or stage with PYTHON=..." 4
}

install_into() {
    python=$1
    shift
    "$python" -m pip "$@" install -q --disable-pip-version-check --no-index --find-links "$here/wheels" 'mobilekit[tensorrt]'
    # Further wheels that were laid beside them: full TensorRT, and CUDA's libraries, which both it and ONNX Runtime use.
    for wheel in "$here"/wheels/nvidia_*.whl "$here"/wheels/tensorrt-*.whl "$here"/wheels/tensorrt_cu1*.whl "$here"/wheels/onnxruntime_ep_*.whl; do
        [ ! -f "$wheel" ] || further "$wheel" "$@" || say "left out: ${wheel##*/}"
    done
    # Over the plain one of another version half of each would be there.
    for wheel in "$here"/wheels/onnxruntime_gpu-*.whl; do
        [ -f "$wheel" ] || continue
        "$python" -m pip "$@" uninstall -q -y --disable-pip-version-check onnxruntime
        further "$wheel" "$@" || {
            say "left out: ${wheel##*/}"
            further onnxruntime "$@"
        }
    done
}

further() {
    package=$1
    shift
    "$python" -m pip "$@" install -q --disable-pip-version-check --no-index --find-links "$here/wheels" --no-deps --force-reinstall "$package"
}

case "${1:-}" in
--stage | --split | --join)
    mode=$1
    shift
    [ $# -gt 0 ] || give_up "$mode needs a folder" "see the head of $0"
    case "$mode" in
    --stage) stage "$@" ;;
    --split) split_up "$@" ;;
    --join) join_up "$@" ;;
    esac
    ;;
*)
    [ -f "$here/python-version" ] ||
        give_up "$here holds no wheels and models" "gpu_check.sh --stage DIR on a machine with the network, then DIR/gpu_check.sh"
    GPU_CHECK_BEGAN=$(date +%s) # a budget begins here
    export GPU_CHECK_BEGAN
    venv
    # What plans and models are cached in is the folder's own: nothing is fetched.
    MOBILEKIT_CACHE=$here/cache exec "$here/venv/bin/python" "$here/gpu_check" run "$@"
    ;;
esac
