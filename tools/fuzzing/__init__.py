# SPDX-License-Identifier: Apache-2.0
"""The fuzzer's targets: tools/fuzz.py is guided by coverage, test/tools/fuzzing by hypothesis."""
