"""U-nets with any set of skip connections, saving and loading of their weights."""

import functools
import logging
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.encoders import encoders, get_encoder
from timm import is_model, list_models
from torch import Tensor, nn

from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import LEVELS, check_sides, check_skips, shown, skips_of, variant_of
from skipshift.networks.layers import layers_of
from skipshift.networks.weights import load_weights, read_weights
from skipshift.records import RUN_RECORD, WEIGHTS, read_json, write_bytes, write_json

DECODER_CHANNELS = (256, 128, 64, 32, 16)


class Unet(nn.Module):
    """The paper's U-net: an encoder of segmentation_models_pytorch and any set of skip connections.

    A pruned skip has zero channels: it never enters the decoder, and the first convolution of its
    decoder block shrinks (section IV-C, Table II). With all four skips the parameters
    and their names are those of ``segmentation_models_pytorch.Unet``.

    `ArgumentError` if an argument is out of range, the encoder is unknown, or it has no features
    for a skip that is to be pruned; `SkipshiftError` if weights cannot be loaded.

    Parameters
    ----------
    encoder
        Name of an encoder of segmentation_models_pytorch, e.g. ``resnet18``; ``tu-`` for timm's.
    classes
        Number of mask values, background included; the channels of the logits.
    skips
        Levels to keep, any subset of {1, 2, 3, 4}: strides 2, 4, 8, 16.
    encoder_weights
        ``"imagenet"`` (downloaded by the encoder's library), None, or a file of weights with
        torchvision's, timm's or segmentation_models_pytorch's names.
    in_channels
        Channels of the images; with 1, pretrained weights of the first convolution are summed over
        colours.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        classes: int = 2,
        skips: tuple[int, ...] = LEVELS,
        encoder_weights: str | Path | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ArgumentError(f"classes must be at least 2, background included, got {classes}")
        self.skips = check_skips(tuple(skips))
        self.encoder_name, self.classes, self.in_channels = encoder, classes, in_channels
        self.encoder = _make_encoder(encoder, encoder_weights, in_channels)
        channels: list[int] = list(self.encoder.out_channels)  # type: ignore[arg-type]
        for level in _pruned(encoder, channels, self.skips):
            channels[level] = 0
        self.decoder = UnetDecoder(
            channels, DECODER_CHANNELS, attention_type=None, add_center_block=False
        )
        self.segmentation_head = SegmentationHead(DECODER_CHANNELS[-1], classes, kernel_size=3)
        initialize_decoder(self.decoder)
        initialize_head(self.segmentation_head)

    @classmethod
    def variant(cls, name: str, encoder: str = "resnet18", **options: Any) -> Self:
        """Build a network by the name of its variant; the inverse is `name`.

        >>> Unet.variant("L1-pruned").skips
        (2, 3, 4)
        """
        return cls(encoder, skips=skips_of(name), **options)

    @property
    def name(self) -> str:
        """Name of the variant, e.g. ``L1-pruned`` or ``skips-13``."""
        return variant_of(self.skips)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this network, without its weights."""
        return {
            "encoder": self.encoder_name,
            "classes": self.classes,
            "skips": list(self.skips),
            "in_channels": self.in_channels,
        }

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, classes, H, W) of images (N, in_channels, H, W) in [0, 1], x / 255.

        H and W must be multiples of 32; `ArgumentError` otherwise. Colours are not normalised.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ArgumentError(
                f"images must be (N, {self.in_channels}, H, W), got {tuple(images.shape)}"
            )
        check_sides(*images.shape[2:])
        features = self.encoder(images)
        kept = (0, *self.skips, len(features) - 1)
        features = [f if level in kept else f[:, :0] for level, f in enumerate(features)]
        logits: Tensor = self.segmentation_head(self.decoder(features))
        return logits

    def with_skips(self, levels: tuple[int, ...]) -> Self:
        """Copy this network with only some of its skips, its other weights as they are.

        A skip left out contributes nothing to its decoder block, as if it were fed zeros: the
        weights that read it are cut off. A network trained with ``skip_dropout`` is made for this.
        `ArgumentError` unless ``levels`` is a subset of `skips`.
        """
        kept = check_skips(tuple(levels))
        if missing := sorted(set(kept) - set(self.skips)):
            raise ArgumentError(f"levels must be among {shown(self.skips)}, got {missing[0]}")
        net = type(self)(**{**self.config, "skips": kept})
        wanted, own = net.state_dict(), self.state_dict()
        # a decoder block's first convolution reads the channels of its skip last
        cut = {k: own[k][:, : w.shape[1]] if w.ndim > 1 else own[k] for k, w in wanted.items()}
        net.load_state_dict(cut)
        return net.train(self.training)

    def layers(self) -> tuple[str, ...]:
        """Names of the layers in depth order: encoder stages at strides 2..32, decoder 16..1.

        ``e2`` is the encoder's feature map at stride 2, and thereby also the skip L1, which passes
        it on unchanged; ``d1`` is the decoder block at stride 1.
        """
        return tuple(layers_of(self))

    def save(self, folder: Path, **record: object) -> None:
        """Write weights.safetensors, then run.json with `config` and ``record``."""
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        write_bytes(Path(folder) / WEIGHTS, save(weights))
        write_json(Path(folder) / RUN_RECORD, {"net": self.config, **record})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a network from a folder written by `save`; `SkipshiftError` if it is not one."""
        folder = Path(folder)
        record = read_json(folder / RUN_RECORD)
        try:
            net = cls(**record["net"])
        except (KeyError, TypeError, ValueError) as error:
            raise SkipshiftError(
                f"{folder / RUN_RECORD}: does not describe a skipshift network: {error}"
            ) from None
        load_weights(net, read_weights(folder / WEIGHTS), str(folder / WEIGHTS))
        return net


def check_variant(encoder: str, skips: tuple[int, ...]) -> None:
    """Check without building it that a network can be built, as `Unet` does.

    `ArgumentError` if the encoder is unknown or lacks the features of a level to prune.
    """
    _check_encoder(encoder)
    _pruned(encoder, _channels_of(encoder), skips)


@functools.cache
def _channels_of(encoder: str) -> list[int]:
    """Channels of an encoder's features, the input's first."""
    if encoder in encoders:
        return list(encoders[encoder]["params"]["out_channels"])
    with torch.device("meta"):
        return list(get_encoder(encoder, in_channels=3, depth=5, weights=None).out_channels)


def _pruned(encoder: str, channels: list[int], skips: tuple[int, ...]) -> list[int]:
    """List the levels to prune; `ArgumentError` if the encoder has no features at one."""
    levels = [level for level in LEVELS if level not in skips]
    for level in levels:
        if channels[level] == 0:
            raise ArgumentError(
                f"skips must keep {level}: {encoder} has no features at stride {2**level}, "
                f"so there is no L{level} to prune"
            )
    return levels


def _check_encoder(name: str) -> None:
    """Raise an `ArgumentError` with similar names unless an encoder is one of smp or of timm."""
    if name not in encoders and not (name.startswith("tu-") and is_model(name[3:])):
        near = [known for known in encoders if known[:6] == name[:6]]
        near += [f"tu-{known}" for known in list_models(f"{name.removeprefix('tu-')[:6]}*")]
        choices = ", ".join((near or ["resnet18", "resnet34"])[:5])
        raise ArgumentError(f"unknown encoder {name!r}; similar names are {choices}")


def _make_encoder(name: str, weights: str | Path | None, in_channels: int) -> nn.Module:
    _check_encoder(name)
    encoder: nn.Module
    if weights == "imagenet":
        encoder = _imagenet_encoder(name)
    else:
        encoder = get_encoder(name, in_channels=3, depth=5, weights=None)
        if weights is not None:
            load_weights(encoder, _encoder_keys(encoder, Path(weights)), str(weights))
    if in_channels != 3:
        encoder.set_in_channels(in_channels, pretrained=weights is not None)  # type: ignore[operator]
    return encoder


def _imagenet_encoder(name: str) -> nn.Module:
    # for timm's encoders smp takes True, not a name
    weights = True if name.startswith("tu-") else "imagenet"
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # it logs a warning for every retry
    try:
        encoder: nn.Module = get_encoder(name, in_channels=3, depth=5, weights=weights)
    except (OSError, KeyError, RuntimeError) as error:
        raise SkipshiftError(
            f"encoder_weights: imagenet weights of {name} could not be downloaded "
            f"({type(error).__name__}); connect to the model hub once, or give a file of weights, "
            f"or none to train from scratch"
        ) from error
    finally:
        hub.setLevel(level)
    return encoder


def _encoder_keys(encoder: nn.Module, path: Path) -> dict[str, Tensor]:
    """Read weights and rename them to the encoder's parameters, without a classifier's."""
    weights = read_weights(path)
    names = set(encoder.state_dict())
    prefixes = ("encoder.", "module.encoder.", "module.", "model.", "backbone.", "")
    stripped = [
        {k.removeprefix(p): v for k, v in weights.items() if k.startswith(p)} for p in prefixes
    ]
    # smp nests a timm network in an attribute
    stripped.append({f"model.{k}": v for k, v in weights.items()})
    best = max(stripped, key=lambda named: len(names & set(named)))
    heads = ("fc.", "classifier.", "head.", "last_linear.", "model.fc.", "model.head.")
    return {k: v for k, v in best.items() if k in names or not k.startswith(heads)}
