"""Folding BatchNorm into the convolutions beside it, for inference."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anomaly_seg_ros.models.folded_head import FoldedOutlierHead
from anomaly_seg_ros.models.outlier_head import OutlierHead


def fold_batchnorm(network: nn.Module) -> nn.Module:
    """Folds every Conv2d - BatchNorm2d pair that stands side by side in an ``nn.Sequential``.

    The outlier head becomes a :class:`FoldedOutlierHead`.

    Args:
        network: In eval mode; changed in place, its state dict afterwards is no checkpoint.

    Returns:
        The same network: same function up to rounding, one memory pass less for each pair.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, OutlierHead):
                setattr(module, name, FoldedOutlierHead(child))
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            conv, norm = module[index], module[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index] = fuse_conv_bn_eval(conv, norm)
                module[index + 1] = nn.Identity()
    return network
