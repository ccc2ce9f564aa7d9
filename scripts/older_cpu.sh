#!/bin/sh
# usage: older_cpu.sh BIN [PYTEST ARGUMENT ...]: tests under qemu as an x86-64 processor of 2013 (AVX2, no VNNI, no
# AVX-512), children included; BIN holds the virtual environment's python. Takes ten times as long or more.
set -eu
bin=$(cd "$1" && pwd)
shift
qemu=$(command -v qemu-x86_64-static) || {
    echo "older_cpu.sh: no qemu-x86_64-static in PATH: apt-get install qemu-user-static" >&2
    exit 4
}
# In BIN, so that Python finds its environment beside it; as sys.executable, so that children are run like this too.
cat >"$bin/older-python" <<EOF
#!/bin/sh
exec "$qemu" -cpu Haswell -0 "$bin/older-python" "$(readlink -f "$bin/python")" "\$@"
EOF
chmod +x "$bin/older-python"
exec "$bin/older-python" -m pytest -q -n 0 -p no:cacheprovider --timeout 1800 "$@"
