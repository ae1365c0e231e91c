# SPDX-License-Identifier: Apache-2.0
"""One prepared run for a machine with a GPU and ten minutes."""
