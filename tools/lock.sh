#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes requirements/locked/ from the loose files beside it: one version of every package that the
# Makefile installs, with hashes, for CPython 3.10 to 3.13 on any machine.
#
#   tools/lock.sh              keeps the locked versions that still fit the loose files
#   tools/lock.sh --upgrade    takes the newest versions that fit
#
# From the environment: UV (the command).
set -euo pipefail
cd "$(dirname "$0")/../requirements"

# lock NAME LOOSE_FILE... [--constraints FILE]
lock() {
  local name="$1"
  shift
  printf '[lock] requirements/locked/%s\n' "$name"
  "${UV:-uv}" pip compile --universal --python-version 3.10 --generate-hashes --quiet --no-header \
    "${options[@]}" --output-file "locked/$name" "$@"
}

options=("$@")
# empy generates message code, which happens in environments of its own, and there is only a source
# archive of it, which pip would build with whatever setuptools is the newest. The rest are wheels.
readonly no_empy=(--no-emit-package empy)
lock dev.txt runtime.txt ros.txt dev.txt live.txt "${no_empy[@]}"
lock apt-dev.txt runtime.txt dev.txt --constraints apt.txt
lock colcon.txt colcon.txt
# A runtime is a part of the environment for development: the same versions.
options=()
lock runtime.txt runtime.txt ros.txt --constraints locked/dev.txt "${no_empy[@]}"
lock live.txt runtime.txt ros.txt live.txt --constraints locked/dev.txt "${no_empy[@]}"
lock messages.txt messages.txt --constraints locked/dev.txt
lock apt-runtime.txt runtime.txt --constraints locked/apt-dev.txt
