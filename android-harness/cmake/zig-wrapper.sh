#!/bin/sh
# zig as a cross compiler. CMake wants one program per tool, so this is linked under the names zig-cc, zig-c++, zig-ar
# and zig-ranlib. MOBILEKIT_ZIG is the zig program, MOBILEKIT_ZIG_TARGET its target triple.
#
# zig takes no -march=armvX.Y-a+feature; it wants -mcpu=generic+vX_Ya+feature, and calls fp16 fullfp16.
set -eu
tool=$(basename "$0")
case $tool in
  zig-ar) exec "$MOBILEKIT_ZIG" ar "$@" ;;
  zig-ranlib) exec "$MOBILEKIT_ZIG" ranlib "$@" ;;
esac
count=$#
while [ "$count" -gt 0 ]; do
  argument=$1
  shift
  count=$((count - 1))
  case $argument in
    -march=armv8-a) continue ;; # what generic is
    -march=armv8.*)
      argument=-mcpu=generic+$(printf '%s' "${argument#-march=}" |
        sed -e 's/^armv8\.\([0-9]\)-a/v8_\1a/' -e 's/+fp16+/+fullfp16+/' -e 's/+fp16$/+fullfp16/')
      ;;
  esac
  set -- "$@" "$argument"
done
exec "$MOBILEKIT_ZIG" "${tool#zig-}" -target "$MOBILEKIT_ZIG_TARGET" "$@"
