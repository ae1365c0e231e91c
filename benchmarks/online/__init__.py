# SPDX-License-Identifier: Apache-2.0
"""The online path measured: our node beside the bare network and a naive node, in one run.

``python -m benchmarks.online`` (``make benchmark``) measures and stores JSON,
``python -m benchmarks.online.document`` writes docs/performance.md from it.
"""
