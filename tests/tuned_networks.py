"""One small network of each family, named as ``tuned_networks:vgg``."""

from functools import partial

from torch import nn
from torchvision.models import (
    VGG,
    ConvNeXt,
    DenseNet,
    EfficientNet,
    Inception3,
    MobileNetV2,
    ResNet,
    SqueezeNet,
    VisionTransformer,
)
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import make_layers

__all__: list[str] = []


def resnet() -> nn.Module:
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)


def vgg() -> nn.Module:
    layers = make_layers([8, "M", 16, "M"])
    network = VGG(layers, num_classes=5, init_weights=False)
    network.classifier = nn.Sequential(
        *(nn.Linear(16 * 49, 24), nn.ReLU(True), nn.Dropout()),
        *(nn.Linear(24, 24), nn.ReLU(True), nn.Dropout()),
        nn.Linear(24, 5),
    )
    return network


def mobilenet() -> nn.Module:
    settings = [[1, 8, 1, 1], [6, 16, 2, 2]]
    return MobileNetV2(5, inverted_residual_setting=settings, width_mult=0.5)


def densenet() -> nn.Module:
    return DenseNet(8, (2, 3), 16, num_classes=5)


def efficientnet() -> nn.Module:
    blocks = [
        MBConvConfig(1, 3, 1, 16, 16, 1),
        MBConvConfig(4, 3, 2, 16, 24, 2),
    ]
    return EfficientNet(blocks, 0.2, stochastic_depth_prob=0.5, num_classes=5)


def convnext() -> nn.Module:
    stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)]
    return ConvNeXt(stages, num_classes=5)


def vit() -> nn.Module:
    return VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)


def inception() -> nn.Module:
    network = Inception3(num_classes=5, aux_logits=True, init_weights=False)
    # Its eleven blocks are wide; four of them do, the auxiliary head's one included.
    network.Mixed_5c = network.Mixed_5d = nn.Identity()
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b"):
        setattr(network, name, nn.Identity())
    network.Mixed_6a = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(256, 768, 1))
    network.Mixed_7a = nn.Conv2d(768, 2048, 1)
    network.Mixed_7c = nn.Sequential(nn.BatchNorm2d(2048), nn.ReLU())
    return network


squeezenet = partial(SqueezeNet, "1_1", num_classes=5)
