#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of the launch file with ROS 2's own launch and launch_ros, from checkouts of their
# repositories: there are no wheels of them. Nothing of theirs is installed.
#
#   tools/check_launch.sh LAUNCH LAUNCH_ROS    after `make colcon`
#
# From the environment: VENV, as in set_up.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf '[launch] error: %s\n' "$*" >&2; exit 1; }

readonly python="$(realpath "${VENV:-.venv}")/bin/python"
[[ -f "${1:-}/launch/package.xml" ]] || fail "LAUNCH='${1:-}' is no checkout of ros2/launch"
[[ -f "${2:-}/launch_ros/package.xml" ]] || fail "LAUNCH_ROS='${2:-}' is no checkout of ros2/launch_ros"
[[ -f install/setup.bash ]] || fail "install/setup.bash is missing: make colcon"

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
# What launch imports and .venv lacks. There is no wheel of composition_interfaces, whose one
# service launch_ros imports for containers of components; nothing here starts one.
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$scratch" \
  osrf-pycommon==2.0.2
mkdir "$scratch/composition_interfaces"
echo 'class LoadNode: Request = Response = None' >"$scratch/composition_interfaces/srv.py"

set +u # colcon's setup files read variables that may be unset
source install/setup.bash
set -u
export PYTHONDONTWRITEBYTECODE=1
launch="$(realpath "$1")" launch_ros="$(realpath "$2")"
export PYTHONPATH="$launch/launch:$launch/launch_testing:$launch_ros/launch_ros:$scratch:$PYTHONPATH"
# The tests skip what cannot be imported.
"$python" -c 'import launch_ros.actions, launch_testing.asserts' || fail "launch cannot be imported"
"$python" -m pytest -n 0 -m 'not exhaustive' test/launch
