# SPDX-License-Identifier: Apache-2.0
"""The training loop, and its configuration, storage, logs and processes."""
