# SPDX-License-Identifier: Apache-2.0
"""Many fine-tunings, measured and written as tables."""
