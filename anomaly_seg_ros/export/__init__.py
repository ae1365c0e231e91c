# SPDX-License-Identifier: Apache-2.0
"""Models as ONNX or torch.export files."""

# The oldest opset that torch exports, which most runtimes read.
DEFAULT_OPSET = 18
