#!/usr/bin/env bash
# Makes the virtual environment that the Makefile's targets run in, or brings it up to date.
#
#   tools/set_up.sh runtime    what the node, the tools and the demo need
#   tools/set_up.sh dev        what tests, linting and training need on top of that
#
# From the environment: PYTHON (an interpreter, 3.10 to 3.13), VENV (a folder), TORCH_INDEX (an
# index that only torch and torchvision are taken from, such as the one with CPU-only builds).
set -euo pipefail
cd "$(dirname "$0")/.."

readonly stage="${1:?runtime or dev}"
readonly python="${PYTHON:-python3}"
readonly venv="${VENV:-.venv}"
readonly log="$venv/setup.log"

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] error: %s\n' "$*" >&2; exit 1; }

has_sourced_ros() { [[ -n "${ROS_DISTRO:-}" ]] && "$python" -c 'import rclpy' 2>/dev/null; }

check_machine() {
  command -v "$python" >/dev/null || fail "no '$python' on PATH; name one: make PYTHON=python3.12"
  local version
  version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
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
  fi
}

# pip, reduced to one line for each big download; everything it says goes to the log.
install() {
  say "installing $1 ..."
  shift
  "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off \
    "${constraints[@]}" "$@" 2>&1 |
    tee -a "$log" |
    sed -u -n -e '/ [kK]B)$/d' -e 's/^ *Downloading .*\/\([^/]*\)$/          \1/p' \
      -e 's/^ *Downloading \([^/]*\)$/          \1/p' ||
    { tail -n 15 "$log" >&2; fail "pip failed; the whole story is in $log"; }
}

# Message and cv_bridge modules of an apt ROS are compiled against one NumPy major version.
keep_ros_numpy() {
  constraints=()
  has_sourced_ros || return 0
  "$python" -c 'import numpy; print(f"numpy<{int(numpy.__version__.split(chr(46))[0]) + 1}")' \
    >"$venv/constraints.txt"
  constraints=(--constraint "$venv/constraints.txt")
}

install_runtime() {
  install "pip" --upgrade 'pip>=24'
  if [[ -n "${TORCH_INDEX:-}" ]]; then
    grep -E '^torch' requirements/runtime.txt >"$venv/torch.txt"
    install "torch and torchvision from $TORCH_INDEX" \
      --index-url "$TORCH_INDEX" --requirement "$venv/torch.txt"
  else
    say "torch comes with its CUDA libraries: about 3 GB to download, 6 GB on disk"
    say "(CPU only: make TORCH_INDEX=https://download.pytorch.org/whl/cpu)"
  fi
  if has_sourced_ros; then
    install "requirements/runtime.txt" --requirement requirements/runtime.txt
  else
    install "requirements/runtime.txt and ros.txt" \
      --requirement requirements/runtime.txt --requirement requirements/ros.txt
  fi
}

check_machine
make_venv
: >"$log"
keep_ros_numpy
case "$stage" in
  runtime) install_runtime ;;
  dev) install "requirements/dev.txt" --requirement requirements/dev.txt ;;
  *) fail "unknown stage '$stage'; runtime or dev" ;;
esac
say "$stage is ready in $venv"
