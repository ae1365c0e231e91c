#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds vision_msgs, of which there is no wheel, into the virtual environment of the Makefile,
# unless it is there: the definitions in tools/vision_msgs, with the generators of the ROS wheels.
# The built files are kept in ~/.cache for other environments of the same Python.
#
# A sourced ROS brings the whole package: nothing is built there. Without a compiler this says so
# and succeeds: the node then does not publish the topics of these types.
#
# From the environment: VENV, as in set_up.sh, and XDG_CACHE_HOME.
set -euo pipefail
cd "$(dirname "$0")/.."

venv="$(realpath -s "${VENV:-.venv}")"
readonly venv source="tools/vision_msgs"
readonly lock="requirements/locked/messages.txt"
readonly python="$venv/bin/python"
readonly installed="$venv/share/vision_msgs/built_from"

say() { printf '[messages] %s\n' "$*"; }
fail() { tail -n 15 "$log" >&2; printf '[messages] error: %s\n' "$*" >&2; exit 1; }
without() { say "no ~/label_info and ~/unknown_objects: $*"; exit 0; }

version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
readonly version
key="python$version-$(uname -m)-$(find "$source" -type f -print0 | LC_ALL=C sort -z |
  xargs -0 cat "$0" "$lock" | sha256sum | cut -c 1-16)"
readonly key
[[ "$(cat "$installed" 2>/dev/null)" == "$key" ]] && exit 0
if [[ ! -e "$installed" ]] && "$python" -c 'import vision_msgs.msg' 2>/dev/null; then exit 0; fi
[[ -z "${ROS_DISTRO:-}" ]] || without "apt install ros-$ROS_DISTRO-vision-msgs"

readonly cache="${XDG_CACHE_HOME:-$HOME/.cache}/anomaly_seg_ros/messages"
readonly built="$cache/$key"
if [[ ! -d "$built" ]]; then
  include="$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
  for command in c++ make; do
    command -v "$command" >/dev/null || without "vision_msgs needs a compiler; apt install g++ make"
  done
  [[ -e "$include/Python.h" ]] ||
    without "vision_msgs needs $include/Python.h; apt install python3-dev"

  say "building vision_msgs, once for each Python (a minute) ..."
  began=$SECONDS
  mkdir -p "$cache"
  work="$(mktemp -d "$cache/build.XXXXXX")"
  trap 'rm -rf "$work"' EXIT
  readonly log="$work/log" generators="$work/generators"
  "$python" -m venv "$generators" >"$log" 2>&1 || fail "$python cannot make $generators"
  # empy has no wheel: it is built with the locked setuptools, so this comes first.
  sed -n '/^setuptools==/,/^ *# via/p' "$lock" >"$work/setuptools.txt"
  export PIP_CONSTRAINT=/dev/null
  for requirements in "$work/setuptools.txt" "$lock"; do
    "$generators/bin/python" -m pip install --disable-pip-version-check --no-input --no-deps \
      --no-compile --require-hashes --no-build-isolation -r "$requirements" >>"$log" 2>&1 ||
      fail "pip failed"
  done

  # The wheels' CMake files name the headers of the machine that made them.
  numpy="$("$generators/bin/python" -c 'import numpy; print(numpy.get_include())')"
  sed -i -E -e "s#/opt/python/[^;\"]*/include/python[0-9.]*#$include#" \
    -e "s#/opt/python/[^;\"]*/numpy/[_a-z]*/include#$numpy#" \
    "$generators"/share/*/cmake/export_*_pyExport.cmake
  run() { env PATH="$generators/bin:$PATH" AMENT_PREFIX_PATH="$generators" "$@" >>"$log" 2>&1; }
  run cmake -S "$source" -B "$work/build" -DCMAKE_PREFIX_PATH="$generators" \
    -DCMAKE_INSTALL_PREFIX="$work/installed" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
    -DPython3_EXECUTABLE="$generators/bin/python" || fail "cmake failed"
  run cmake --build "$work/build" --parallel || fail "the compiler failed"
  run cmake --install "$work/build" || fail "cmake failed"
  # Headers and CMake files are for C++, and name folders that are gone in a moment.
  rm -rf "$work/installed/include" "$work/installed/share/vision_msgs/cmake"
  echo "$key" >"$work/installed/share/vision_msgs/built_from"
  mv -T "$work/installed" "$built" 2>/dev/null || [[ -d "$built" ]] # or another run was faster
  say "built in $((SECONDS - began)) s"
fi
cp -a "$built/." "$venv/"
