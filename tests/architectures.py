"""Small networks of every known architecture with their layers, and of unknown with their paths."""

import segmentation_models_pytorch as smp
import torch
import torchvision
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks import nets
from torch import nn

import handmade
from skipshift.networks.unet import Unet

TINY = "tu-mobilenetv3_small_050"
"""Encoder that trains in a third of a ResNet18's time, its checkpoints a sixth as large."""

TEN = "e2 e4 e8 e16 e32 s16 d16 s8 d8 s4 d4 s2 d2 d1"
THREE = "L0 L1 bottleneck"
FOUR = "e1 e2 e4 e8 e16 s8 d8 s4 d4 s2 d2 s1 d1"


def smp_net(kind, encoder="resnet18", **options):
    return getattr(smp, kind)(encoder, encoder_weights=None, **options)


def nnunet(kind, volumes=False, **options):
    conv, norm = (nn.Conv3d, nn.InstanceNorm3d) if volumes else (nn.Conv2d, nn.InstanceNorm2d)
    steps = [[1, 1, 1], [1, 2, 2], [2, 2, 2]] if volumes else [[1, 1], [2, 2], [2, 2]]
    return kind(
        1, 3, [8, 16, 32], conv, 3, steps, num_classes=2, n_conv_per_stage_decoder=1,
        norm_op=norm, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, **options,
    )  # fmt: skip


def monai_net(kind, dims=2, **options):
    return getattr(nets, kind)(spatial_dims=dims, in_channels=1, out_channels=2, **options)


DYN = {"kernel_size": [3] * 4, "strides": [1, 2, 2, 2], "upsample_kernel_size": [2] * 3}
LEVELS = {"channels": (8, 16, 32, 64), "strides": (2, 2, 2)}
WIDTHS = {"features": (8, 8, 16, 16, 32, 8)}

CASES = {
    "skipshift Unet": (lambda: Unet("resnet18"), TEN),
    "skipshift L1-pruned": (lambda: Unet.variant("L1-pruned"), TEN.replace("s2 ", "")),
    "smp Unet": (lambda: smp_net("Unet"), TEN),
    "smp Unet depth 3": (
        lambda: smp_net("Unet", encoder_depth=3, decoder_channels=(32, 16, 8)),
        "e2 e4 e8 s4 d4 s2 d2 d1",
    ),
    "smp Unet scSE": (lambda: smp_net("Unet", decoder_attention_type="scse"), TEN),
    "smp Unet DenseNet": (lambda: smp_net("Unet", "densenet121"), TEN),
    "smp Unet Inception": (lambda: smp_net("Unet", "inceptionv4"), TEN),
    "smp Unet SE": (lambda: smp_net("Unet", "se_resnet50"), TEN),
    "smp Unet timm": (lambda: smp_net("Unet", "tu-resnet10t"), TEN),
    "smp Unet ConvNeXt": (
        lambda: smp_net("Unet", "tu-convnext_atto"),
        TEN.replace("e2 ", "").replace("s2 ", ""),
    ),
    "smp UnetPlusPlus": (lambda: smp_net("UnetPlusPlus"), TEN),
    "smp MAnet": (lambda: smp_net("MAnet"), TEN.replace("e32", "e32 b32")),
    "smp Linknet": (lambda: smp_net("Linknet"), TEN),
    "smp FPN": (lambda: smp_net("FPN"), "e2 e4 e8 e16 e32 d32 s16 d16 s8 d8 s4 d4 d4b"),
    "smp DeepLabV3Plus": (lambda: smp_net("DeepLabV3Plus"), "e2 e4 e8 e16 e16b b16 s4 d4"),
    "MONAI UNet": (lambda: monai_net("UNet", **LEVELS), "e2 e4 e8 b8 s8 d4 s4 d2 s2 d1"),
    "MONAI UNet 3-D": (
        lambda: monai_net("UNet", 3, num_res_units=1, **LEVELS),
        "e2 e4 e8 b8 s8 d4 s4 d2 s2 d1",
    ),
    "MONAI BasicUNet": (lambda: monai_net("BasicUNet", **WIDTHS), FOUR),
    "MONAI BasicUNet 3-D": (lambda: monai_net("BasicUNet", 3, **WIDTHS), FOUR),
    "MONAI BasicUNetPlusPlus": (lambda: monai_net("BasicUNetPlusPlus", **WIDTHS), FOUR),
    "MONAI AttentionUnet": (
        lambda: monai_net("AttentionUnet", **LEVELS),
        "e1 e2 e4 e8 s4 d4 s2 d2 s1 d1",
    ),
    "MONAI DynUNet": (
        lambda: monai_net("DynUNet", filters=(8, 8, 16, 16), **DYN),
        "e1 e2 e4 e8 s4 d4 s2 d2 s1 d1",
    ),
    "MONAI FlexibleUNet": (
        lambda: nets.FlexibleUNet(1, 2, "resnet10"),
        TEN,
    ),
    "MONAI FlexibleUNet EfficientNet": (lambda: nets.FlexibleUNet(1, 2, "efficientnet-b0"), TEN),
    "MONAI SwinUNETR": (
        lambda: nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2),
        "e2 e4 e8 e16 e32 b32 s16 d16 s8 d8 s4 d4 s2 d2 s1 d1",
    ),
    "nnU-Net PlainConvUNet": (
        lambda: nnunet(PlainConvUNet, n_conv_per_stage=1),
        "e1 e2 e4 s2 d2 s1 d1",
    ),
    "nnU-Net PlainConvUNet 3-D": (
        lambda: nnunet(PlainConvUNet, True, n_conv_per_stage=1, deep_supervision=True),
        "e1 e2 e4 s2 d2 s1 d1",
    ),
    "nnU-Net ResidualEncoderUNet": (
        lambda: nnunet(ResidualEncoderUNet, n_blocks_per_stage=1),
        "e1 e2 e4 s2 d2 s1 d1",
    ),
    "torchvision FCN": (
        lambda: torchvision.models.segmentation.fcn_resnet50(
            weights=None, weights_backbone=None, num_classes=2, aux_loss=True
        ),
        "e2 e4 e8 e8b e8c d8",
    ),
    "torchvision DeepLabV3": (
        lambda: torchvision.models.segmentation.deeplabv3_resnet50(
            weights=None, weights_backbone=None, num_classes=2
        ),
        "e2 e4 e8 e8b e8c b8 d8",
    ),
}


TRACED = {
    "smp PAN": (lambda: smp_net("PAN"), "L2 L3 L4 bottleneck"),
    "smp PSPNet": (lambda: smp_net("PSPNet"), "bottleneck"),
    "smp DeepLabV3": (lambda: smp_net("DeepLabV3"), "bottleneck"),
    "smp UPerNet": (lambda: smp_net("UPerNet"), "L2 L3 L4 bottleneck"),
    "smp Segformer": (lambda: smp_net("Segformer", "mit_b0"), "L2 L3 L4 bottleneck"),
    "smp DPT": (
        lambda: smp_net("DPT", "tu-vit_tiny_patch16_224", dynamic_img_size=True),
        "L4 L4b L4c bottleneck",
    ),
    "MONAI UNETR": (
        lambda: nets.UNETR(
            1,
            2,
            img_size=64,
            feature_size=8,
            hidden_size=96,
            mlp_dim=192,
            num_heads=4,
            spatial_dims=2,
        ),
        "L0 L4 L4b L4c bottleneck",
    ),
    "MONAI SegResNet": (lambda: monai_net("SegResNet", init_filters=8), "L0 L1 L2 bottleneck"),
    "MONAI VNet": (lambda: monai_net("VNet"), "L0 L1 L2 L3 bottleneck"),
    "torchvision LRASPP": (
        lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=2
        ),
        "L3 bottleneck",
    ),
    "torchvision DeepLabV3 MobileNet": (
        lambda: torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=2
        ),
        "bottleneck",
    ),
    "own, skips as arguments": (handmade.Arguments, THREE),
    "own, skips joined in forward": (handmade.Joined, THREE),
    "own, skips added in forward": (handmade.Added, THREE),
    "own, skips as attributes": (handmade.Attribute, THREE),
    "own, maps in a kept object": (handmade.Kept, THREE),
    "own, skips in forward hooks": (handmade.Hooked, THREE),
    "own, image read by the decoder": (handmade.Imaged, "L0 L1 L2 bottleneck"),
    "own, R2 (recurrent residual)": (lambda: handmade.Arguments(handmade.Recurrent), THREE),
    "own, residual": (lambda: handmade.Arguments(handmade.Residual), THREE),
    "own, dense": (lambda: handmade.Arguments(handmade.Dense), THREE),
    "own, inception": (lambda: handmade.Arguments(handmade.Inception), THREE),
    "own, squeeze and excitation": (lambda: handmade.Arguments(handmade.Squeezed), THREE),
    "own, attention gates": (handmade.Gated, THREE),
    "own, UCTransNet": (handmade.Crossed, THREE),
    "own, ReLU in place before the norm": (handmade.InPlace, THREE),
    "own, two norms of one convolution": (handmade.Twice, THREE),
    "own, encoder in inference mode": (handmade.Frozen, THREE),
    "own, weight and spectral norm": (handmade.weight_normed, THREE),
    "own, norm without statistics": (handmade.without_statistics, THREE),
}
"""Networks of no known architecture, with the paths that a trace finds."""


def build(name):
    """Network in evaluation mode and an example (1, C, 64, 64) or (1, C, 64, 64, 64)."""
    torch.manual_seed(0)
    net = {**CASES, **TRACED}[name][0]().eval()
    channels = 3 if name.startswith(("skip", "smp", "torch", "own")) else 1
    side = 128 if name == "smp PAN" else 64
    return net, torch.rand(1, channels, *[side] * (3 if "3-D" in name else 2))
