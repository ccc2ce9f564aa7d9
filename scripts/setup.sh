#!/bin/sh
# usage: setup.sh VENV EXTRAS
# Makes the virtual environment and installs what helps from Debian's packages where it may. Safe to run again:
# each part is skipped when nothing changed.
set -eu
venv=$1
extras=$2
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

# An index that answers badly once need not be the end of it.
pip_install() {
    "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@" && return
    say "note: pip failed; once more in 10 seconds"
    sleep 10
    "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@"
}

find_python() {
    for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$name"
            return
        fi
    done
    say "error: no Python 3.11 or newer with the venv module was found"
    say "hint: apt install python3-venv, or PYTHON=/path/to/python3.11 make ..."
    exit 4
}

# What each package is for stands beside it; all are optional.
wanted_packages() {
    command -v aarch64-linux-gnu-g++ >/dev/null 2>&1 || echo g++-aarch64-linux-gnu # builds the arm64 harness
    command -v g++ >/dev/null 2>&1 || echo g++                                     # builds the x86_64 harness
    command -v qemu-aarch64-static >/dev/null 2>&1 || echo qemu-user-static         # runs arm64 code
    command -v mksh >/dev/null 2>&1 || echo mksh                                   # Android's shell
    command -v busybox >/dev/null 2>&1 || echo busybox-static                      # the device's small tools
    command -v ccache >/dev/null 2>&1 || echo ccache                               # makes a second build quick
    case ",$extras," in *,dev,*)
        command -v chromium >/dev/null 2>&1 || echo chromium                       # opens the HTML reports
        command -v chromedriver >/dev/null 2>&1 || echo chromium-driver
        ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || echo postgresql ;; # a team's history
    esac
    command -v proot >/dev/null 2>&1 || echo proot                                 # where user namespaces are off
    # For the tests of ssh://, which start one of their own. Under systemd the package would open one to the network.
    [ -x /usr/sbin/sshd ] || [ -d /run/systemd/system ] || echo openssh-server
}

system_packages() {
    [ "${MOBILEKIT_NO_APT:-}" != 1 ] || return 0
    missing=$(wanted_packages | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        say "note: no apt-get here; going on without: $missing"
        return 0
    fi
    if [ "$(id -u)" = 0 ]; then
        as_root=""
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        say "note: not root and no passwordless sudo; going on without: $missing"
        say "hint: sudo apt install $missing"
        return 0
    fi
    say "installing Debian packages that make it better: $missing(MOBILEKIT_NO_APT=1 to go without)"
    log=$(mktemp)
    tries=1
    # shellcheck disable=SC2086 -- a list of words on purpose
    until $as_root env DEBIAN_FRONTEND=noninteractive sh -c \
        "apt-get update -q -o Acquire::Retries=3 && apt-get install -y -q -o Acquire::Retries=3 \
            --no-install-recommends $missing" >"$log" 2>&1; do
        if [ "$tries" -lt 10 ] && grep -q 'Could not get lock' "$log"; then
            [ "$tries" -gt 1 ] || say "note: another program is installing packages; waiting for it, 3 minutes at most"
            tries=$((tries + 1))
            sleep 20
        else
            tail -n 5 "$log" >&2
            say "note: apt-get failed (log: $log); going on without: $missing"
            return 0
        fi
    done
    rm -f "$log"
}

python_packages() {
    python=$(find_python)
    want=$("$python" - "$extras" <<'PY'
import hashlib, pathlib, sys
data = pathlib.Path("pyproject.toml").read_bytes() + sys.argv[1].encode() + sys.version.encode()
print(hashlib.sha256(data).hexdigest())
PY
    )
    stamp=$venv/.mobilekit-$(printf %s "$extras" | tr , -)
    if [ -x "$venv/bin/mobilekit" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
        return 0
    fi
    # Ended in the middle, this leaves an environment that looks whole; only one that is ours from the start is removed.
    begun=$venv/.mobilekit-begun
    if [ -e "$begun" ]; then
        say "making $venv anew: setting it up was broken off"
        rm -rf "$venv"
    fi
    if [ ! -e "$venv" ]; then
        mkdir -p "$venv"
        : >"$begun"
    fi
    if [ ! -x "$venv/bin/python" ]; then
        say "making the virtual environment $venv with $python"
        "$python" -m venv "$venv"
    fi
    say "installing mobilekit and what it needs into $venv (about a minute)"
    pip_install -e ".[$extras]"
    printf '%s\n' "$want" >"$stamp"
    rm -f "$begun"
}

# The tests of .pth models want torch; the index's own build brings gigabytes of CUDA, so only a CPU build is taken.
cpu_torch() {
    case ",$extras," in *,dev,*) ;; *) return 0 ;; esac
    wanted=torch==2.13.0
    ! "$venv/bin/python" -c 'import torch' >/dev/null 2>&1 || return 0
    if "$venv/bin/python" -m pip install -q --disable-pip-version-check --dry-run --no-deps --report - "$wanted" \
        2>/dev/null | grep -qE '"url": "[^"]*(\+|%2B)cpu'; then
        say "installing the CPU build of $wanted, for the tests of .pth models"
        pip_install "$wanted"
    else
        say "note: pip finds no CPU build of $wanted here; the tests of .pth models are skipped"
    fi
}

system_packages
python_packages
cpu_torch
