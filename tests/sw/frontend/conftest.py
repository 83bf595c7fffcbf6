# SPDX-License-Identifier: Apache-2.0
"""Networks this small lose more to a second thread than they gain."""

import torch

torch.set_num_threads(1)
