#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the checkout with colcon and checks that `ros2 run` would find and start its executables.
#
# colcon lives in an environment of its own, because it needs setuptools<72 and torch a newer one.
# From the environment: PYTHON and VENV, as in set_up.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly colcon_venv=".venv-colcon"
readonly venv="$(realpath "${VENV:-.venv}")"
readonly prefix="install/anomaly_seg_ros"
readonly node_seconds=120 # loading torch and a model takes long on busy cores
readonly executables="dataset_to_bag demo detector evaluate_bag evaluate_folder inspect_model"

say() { printf '[colcon] %s\n' "$*"; }
fail() { printf '[colcon] error: %s\n' "$*" >&2; exit 1; }

if [[ ! "$colcon_venv/.ready" -nt requirements/locked/colcon.txt ]]; then
  say "installing colcon into $colcon_venv"
  "${PYTHON:-python3}" -m venv --clear "$colcon_venv"
  # empy has no wheel: it is built with the locked setuptools, so this comes first.
  grep -A 2 '^setuptools==' requirements/locked/colcon.txt >"$colcon_venv/setuptools.txt"
  export PIP_CONSTRAINT=/dev/null
  for lock in "$colcon_venv/setuptools.txt" requirements/locked/colcon.txt; do
    "$colcon_venv/bin/python" -m pip install --disable-pip-version-check --no-deps \
      --require-hashes --no-build-isolation -r "$lock" >>"$colcon_venv/setup.log" 2>&1 ||
      { tail -n 15 "$colcon_venv/setup.log" >&2; fail "pip failed"; }
  done
  touch "$colcon_venv/.ready"
fi
export PATH="$PWD/$colcon_venv/bin:$PATH"

# A package.xml that does not validate is silently taken for a plain Python package.
listed="$(colcon list)"
say "$listed"
[[ "$listed" == *"(ros.ament_python)" ]] || fail "package.xml is not valid: not ros.ament_python"
colcon build --event-handlers console_cohesion-

for name in $executables; do
  [[ -x "$prefix/lib/anomaly_seg_ros/$name" ]] || fail "$prefix/lib/anomaly_seg_ros lacks $name"
done
for path in launch config/detector.yaml config/detector.rviz package.xml; do
  [[ -e "$prefix/share/anomaly_seg_ros/$path" ]] || fail "$prefix/share lacks $path"
done

say "starting the installed executables with the Python of $venv"
readonly root="$PWD"
set +u # colcon's setup files read variables that may be unset
source install/setup.bash
set -u
cd / # nothing may come from the checkout
export PATH="$venv/bin:$PATH"
for name in $executables; do
  [[ "$name" == detector ]] && continue # a node runs until it is stopped
  "$root/$prefix/lib/anomaly_seg_ros/$name" --help >/dev/null || fail "$name does not start"
done
readonly node_log="$root/log/detector.log"
set -m # otherwise bash makes a background process ignore SIGINT
timeout --kill-after=10 "$node_seconds" \
  "$root/$prefix/lib/anomaly_seg_ros/detector" >"$node_log" 2>&1 &
readonly node=$!
until grep -q 'active, listening' "$node_log" || ! kill -0 "$node" 2>/dev/null; do sleep 0.5; done
kill -INT "$node" 2>/dev/null || true
wait "$node" ||
  { cat "$node_log" >&2; fail "the installed detector did not end with status 0 on SIGINT"; }
grep -q 'active, listening' "$node_log" ||
  { cat "$node_log" >&2; fail "the installed detector did not get active in $node_seconds s"; }
say "every executable is installed and starts"
