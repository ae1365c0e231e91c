# SPDX-License-Identifier: Apache-2.0
"""Entry of ``python -m training.toy_hybrid``."""

import sys

from training.toy_hybrid.run import main

if __name__ == "__main__":
    sys.exit(main())
