"""Small U-nets written by hand, one for each way in which a skip can reach its decoder block."""

import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


def stage(width, out):
    return nn.Sequential(nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU())


class Node(nn.Module):
    """Doubles the size, joins a skip, convolves."""

    def __init__(self, width, out, block=stage):
        super().__init__()
        self.conv = block(width, out)

    def forward(self, x, skip):
        return self.conv(torch.cat([functional.interpolate(x, scale_factor=2), skip], 1))


class Arguments(nn.Module):
    """Skips are arguments of the blocks that read them."""

    def __init__(self, block=stage):
        super().__init__()
        self.e1, self.e2, self.e3 = block(3, 8), block(8, 16), block(16, 32)
        self.pool = nn.MaxPool2d(2)
        self.d2, self.d1, self.out = Node(48, 16, block), Node(24, 8, block), nn.Conv2d(8, 2, 1)

    def encode(self, x):
        a = self.e1(x)
        b = self.e2(self.pool(a))
        return a, b, self.e3(self.pool(b))

    def forward(self, x):
        a, b, c = self.encode(x)
        return self.out(self.d1(self.d2(c, b), a))


class Joined(Arguments):
    """Skips are joined by the network's own forward method, as in most U-nets written by hand."""

    def __init__(self):
        super().__init__()
        self.d2, self.d1 = stage(48, 16), stage(24, 8)

    def forward(self, x):
        a, b, c = self.encode(x)
        y = self.d2(torch.cat([functional.interpolate(c, scale_factor=2), b], 1))
        return self.out(self.d1(torch.cat([a, functional.interpolate(y, scale_factor=2)], 1)))


class Added(Arguments):
    """Skips are added by the network's own forward method."""

    def __init__(self):
        super().__init__()
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.d2, self.d1 = stage(16, 16), stage(8, 8)

    def forward(self, x):
        a, b, c = self.encode(x)
        return self.out(self.d1(self.up1(self.d2(self.up2(c) + b)) + a))


class Holder(Node):
    """Reads a skip that was set as an attribute."""

    def forward(self, x):
        return super().forward(x, self.skip)


class Attribute(Arguments):
    """Skips are attributes of the blocks that read them."""

    def __init__(self):
        super().__init__()
        self.d2, self.d1 = Holder(48, 16), Holder(24, 8)
        self.l1, self.l2 = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 16, 1)

    def forward(self, x):
        a, b, c = self.encode(x)
        self.d2.skip, self.d1.skip = self.l2(b), self.l1(a)
        return self.out(self.d1(self.d2(c)))


@dataclass
class Maps:
    a: object = None
    b: object = None
    c: object = None


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.d2, self.d1, self.out = Node(48, 16), Node(24, 8), nn.Conv2d(8, 2, 1)

    def forward(self, maps):
        return self.out(self.d1(self.d2(maps.c, maps.b), maps.a))


class Kept(Arguments):
    """Maps lie in an object that the network keeps."""

    def __init__(self):
        super().__init__()
        self.maps, self.decoder = Maps(), Decoder()
        self.l1, self.l2 = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 16, 1)

    def forward(self, x):
        a, b, self.maps.c = self.encode(x)
        self.maps.a, self.maps.b = self.l1(a), self.l2(b)
        return self.decoder(self.maps)


class Hooked(Arguments):
    """Blocks read what closures keep of the encoder's stages in forward hooks."""

    def __init__(self):
        super().__init__()
        self.kept = {}
        for name in ("e1", "e2"):
            getattr(self, name).register_forward_hook(self.keeper(name))

    def keeper(self, name):
        return lambda _module, _inputs, output: self.kept.update({name: output})

    def forward(self, x):
        c = self.encode(x)[2]
        return self.out(self.d1(self.d2(c, self.kept["e2"]), self.kept["e1"]))


class Recurrent(nn.Module):
    """A recurrent residual block: R2U-Net (Alom et al. 2018)."""

    def __init__(self, width, out):
        super().__init__()
        self.first, self.conv = nn.Conv2d(width, out, 1), stage(out, out)

    def forward(self, x):
        x = self.first(x)
        y = self.conv(x)
        for _ in range(2):
            y = self.conv(x + y)
        return x + y


class Residual(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.conv, self.side = stage(width, out), nn.Conv2d(width, out, 1)

    def forward(self, x):
        return functional.relu(self.conv(x) + self.side(x))


class Dense(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.first, self.second = stage(width, out), stage(width + out, out)

    def forward(self, x):
        return self.second(torch.cat([x, self.first(x)], 1))


class Inception(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Conv2d(width, out // 4, size, padding=size // 2) for size in (1, 3, 5, 7)
        )

    def forward(self, x):
        return functional.relu(torch.cat([part(x) for part in self.parts], 1))


class Squeezed(nn.Module):
    """Squeeze and excitation (Hu et al. 2018)."""

    def __init__(self, width, out):
        super().__init__()
        self.conv, self.gate = stage(width, out), nn.Linear(out, out)

    def forward(self, x):
        x = self.conv(x)
        return x * self.gate(x.mean((2, 3))).sigmoid()[..., None, None]


class Gate(nn.Module):
    """An attention gate (Oktay et al. 2018)."""

    def __init__(self, below, width):
        super().__init__()
        self.query, self.key = nn.Conv2d(below, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, below, skip):
        query = functional.interpolate(self.query(below), scale_factor=2)
        return skip * (query + self.key(skip)).relu().sigmoid()


class Gated(Arguments):
    """Gates weigh the skips by what comes from below."""

    def __init__(self):
        super().__init__()
        self.g2, self.g1 = Gate(32, 16), Gate(16, 8)

    def forward(self, x):
        a, b, c = self.encode(x)
        y = self.d2(c, self.g2(c, b))
        return self.out(self.d1(y, self.g1(y, a)))


class ChannelTransformer(nn.Module):
    """Cross-attention between the channels of all skips: UCTransNet (Wang et al. 2022)."""

    def __init__(self, widths, cells=8):
        super().__init__()
        self.cells, self.query = cells, nn.ModuleList(nn.Linear(64, 64) for _ in widths)
        self.value, self.back = nn.Linear(64, 64), nn.ModuleList(nn.Linear(64, 64) for _ in widths)

    def forward(self, *skips):
        tokens = [functional.adaptive_avg_pool2d(skip, self.cells).flatten(2) for skip in skips]
        every, found = torch.cat(tokens, 1), []
        for skip, own, query, back in zip(skips, tokens, self.query, self.back, strict=True):
            weights = (query(own) @ every.transpose(1, 2) / self.cells).softmax(-1)
            new = back(weights @ self.value(every)).unflatten(2, (self.cells, self.cells))
            found.append(skip + functional.interpolate(new, skip.shape[2:]))
        return found


class Crossed(Arguments):
    """A transformer mixes the skips before their blocks read them."""

    def __init__(self):
        super().__init__()
        self.mix = ChannelTransformer((8, 16))

    def forward(self, x):
        a, b, c = self.encode(x)
        a, b = self.mix(a, b)
        return self.out(self.d1(self.d2(c, b), a))


class Imaged(Arguments):
    """The last block reads the image as well."""

    def __init__(self):
        super().__init__()
        self.out = Node(11, 2)
        self.down = nn.Conv2d(3, 3, 3, 2, 1)

    def encode(self, x):
        return super().encode(self.down(x))

    def forward(self, x):
        a, b, c = self.encode(x)
        return self.out(self.d1(self.d2(c, b), a), x)


class InPlace(Arguments):
    """Convolution, ReLU in place, batch norm."""

    def __init__(self):
        super().__init__()
        for part in (self.e1, self.e2, self.e3):
            part[1], part[2] = nn.ReLU(inplace=True), part[1]


class Twice(Arguments):
    """One convolution behind two batch norms, as heads of detectors have."""

    def __init__(self):
        super().__init__()
        self.conv, self.n1, self.n2 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x):
        a, b, c = self.encode(x)
        y = self.d1(self.d2(c, b), a)
        return self.out(self.n1(self.conv(y)).relu() + self.n2(self.conv(y / 2)).relu())


class Frozen(Arguments):
    """An encoder in inference mode."""

    def encode(self, x):
        with torch.inference_mode():
            return super().encode(x)


def weight_normed():
    net = Arguments()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old forms are what is in use
        nn.utils.weight_norm(net.e1[0])
        nn.utils.spectral_norm(net.e2[0])
    return net


def without_statistics():
    net = Arguments()
    net.e1[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return net
