# SPDX-License-Identifier: Apache-2.0
"""The set-ups of the two papers: a YAML file each, and what reads, checks and runs them."""
