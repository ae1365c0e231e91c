#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ROS 2's own linters (ament_lint), as far as they concern a Python package. What ruff checks as well is
# checked twice: the build farm and maintainers of other packages run these.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly linters="ament_copyright ament_flake8 ament_pep257 ament_xmllint"
readonly code="anomaly_seg_ros launch training tools benchmarks setup.py"
failed=""

for linter in $linters; do
  command -v "$linter" >/dev/null || {
    printf '[conventions] error: no %s on PATH; on Debian: apt install' "$linter" >&2
    printf ' python3-%s' ${linters//_/-} >&2
    printf '; on an apt ROS: the same with ros-$ROS_DISTRO- for python3-\n' >&2
    exit 1
  }
done

check() {
  printf '[conventions] %s\n' "$*"
  # What is not a finding is a line for each file.
  "$@" 2>&1 | sed -E '/^(checking |\* |$)|^Checked files|is valid$/d' || failed+=" $1"
}

# It knows no SPDX lines, which ruff's CPY001 looks after: the licence's text only.
check ament_copyright LICENSE
check ament_flake8 --config setup.cfg $code test
# As ruff's rules D in pyproject.toml. D403 would write "Iou" for IoU.
check ament_pep257 --convention google --add-ignore D100 D103 D104 D105 D107 D403 -- $code
# package.xml with the schema that its head names: Debian has that in its package, an apt ROS fetches it.
check ament_xmllint --exclude build install log out -- .

[[ -z "$failed" ]] || { printf '[conventions] error: findings of%s\n' "$failed" >&2; exit 1; }
