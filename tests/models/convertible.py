"""Small networks of different families, each with an example input."""

import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A convolutional network with residuals, a depthwise convolution, squeeze and excite, and a flattened head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.PReLU(16))
        self.expand = nn.Conv2d(16, 24, 1)
        self.depthwise = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.BatchNorm2d(24))
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 16, 1), nn.ReLU(), nn.Conv2d(16, 24, 1))
        self.project = nn.Conv2d(24, 16, 1)
        self.head = nn.Linear(16 * 4 * 4, 5)

    def forward(self, x):
        x = self.stem(x)
        y = F.hardswish(self.depthwise(self.expand(x)))
        x = x + self.project(y * self.squeeze(y).sigmoid())
        return self.head(F.max_pool2d(x, 2).flatten(1))


class Dense(nn.Module):
    """Concatenations, a split, a grouped convolution and a channel shuffle."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 16, 1), nn.Conv1d(19, 16, 1)
        self.grouped = nn.Conv1d(32, 32, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(4, 32)
        self.gated = nn.Conv1d(32, 32, 1)
        self.up = nn.ConvTranspose1d(16, 16, 2, stride=2)
        self.last = nn.Conv1d(16, 4, 1)

    def forward(self, x):
        a = self.a(x).relu()
        both = torch.cat([a, self.b(torch.cat([x, a], 1))], 1)
        both = both.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        left, right = self.gated(self.norm(self.grouped(both))).chunk(2, 1)
        return self.last(self.up(left * right.sigmoid()))


class RMSNorm(nn.Module):
    """As in language models: written out."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Attention(nn.Module):
    """Grouped queries, a bias of each head, rotary halves."""

    def __init__(self, size, heads, kv):
        super().__init__()
        self.num_heads, self.num_kv, self.head_dim = heads, kv, 4
        self.q = nn.Linear(size, heads * 4)
        self.kv = nn.Linear(size, 2 * kv * 4, bias=False)
        self.out = nn.Linear(heads * 4, size)
        self.head_bias = nn.Parameter(torch.randn(heads, 1, 1))
        self.register_buffer("angles", torch.arange(6)[:, None] * torch.tensor([1.0, 0.1]))

    def turned(self, x):
        a, b = x.chunk(2, -1)
        cos, sin = self.angles.cos(), self.angles.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def forward(self, x):
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        k, v = self.kv(x).view(batch, length, 2, self.num_kv, self.head_dim).permute(2, 0, 3, 1, 4)
        k, v = (t.repeat_interleave(self.num_heads // self.num_kv, 1) for t in (self.turned(k), v))
        scores = torch.einsum("bhid,bhjd->bhij", self.turned(q), k) * 0.5 + self.head_bias
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Embeddings, a class token, positions, two kinds of norms, grouped queries, a gated feed-forward layer, a tied head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 6, 16))
        self.first, self.second, self.last = nn.LayerNorm(16), RMSNorm(16), nn.LayerNorm(16)
        self.attention = Attention(16, 8, 4)
        self.up, self.gate, self.down = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids, *, scale=1.0):
        x = torch.cat([self.token.expand(len(ids), -1, -1), self.embedding(ids)], 1) * scale + self.positions
        x = x + self.attention(self.first(x))
        y = self.second(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return {"logits": self.head(self.last(x)[:, 0])}


class Encoder(nn.Module):
    """A transformer of torch's own layers, with a token and positions as parameters."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, 16, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 5, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.stem(x).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.layers(x)[:, 0])


class Shuffled(nn.Module):
    """Equal parts of shuffled channels: one goes on, the other is mixed."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 1)
        self.mixed = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(2))
        self.head = nn.Linear(32, 2)

    def forward(self, x):
        x = self.stem(x)
        for mixed in self.mixed:
            a, b = x.chunk(2, 1)
            x = torch.cat([a, mixed(b).relu()], 1)
            x = x.view(x.shape[0], 2, -1, *x.shape[2:]).transpose(1, 2).contiguous().view(x.shape[0], -1, *x.shape[2:])
        return self.head(x.mean((2, 3)))


class Scale(nn.Module):
    """One number for each channel, of another shape than the channels' layer."""

    def __init__(self, *shape):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(shape))

    def forward(self, x):
        return x * (self.gamma.view(-1, 1) if x.dim() == 3 and x.shape[1] == len(self.gamma) else self.gamma)


class Mixer(nn.Module):
    """Layers over tokens and over channels; only the channels are cut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.tokens = nn.Linear(4, 4)
        self.early, self.late = Scale(16), Scale(1, 16)
        self.norm = nn.LayerNorm(16)
        self.channels = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.stem(x).flatten(2)
        x = (x + self.early(self.tokens(x).relu())).transpose(1, 2)
        return self.head((x + self.late(self.channels(self.norm(x)))).mean(1))


class Blocks(nn.Module):
    """Residual blocks: as modules of a list, called with further arguments, one that changes the shape, and one that is no residual."""

    class Block(nn.Module):
        def __init__(self, channels, out):
            super().__init__()
            self.norm, self.a, self.b = nn.LayerNorm(channels), nn.Linear(channels, 32), nn.Linear(32, out)
            self.skip = nn.Linear(channels, out) if channels != out else nn.Identity()

        def forward(self, x, scale, *, shift=0.0):
            return F.dropout(self.skip(x) + self.b(F.gelu(self.a(self.norm(x)))) * scale + shift, 0.0, self.training)

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 16)
        self.blocks = nn.ModuleList([self.Block(16, 16), self.Block(16, 16), self.Block(16, 24), self.Block(24, 24)])
        self.attention = Attention(24, 4, 4)
        self.plain = nn.Sequential(nn.Linear(24, 24), nn.ReLU())
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, 0.5, shift=0.1)
        return self.head(self.plain(x + self.attention(x)).mean(1))


class NormAct(nn.BatchNorm1d):
    """A norm with its activation as a child."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Attended(nn.Module):
    """Residual blocks with attention, or with a norm that has a child, inside."""

    class Block(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return x + self.inner(x)

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 16)
        self.attended = nn.ModuleList([self.Block(Attention(16, 4, 2)) for _ in range(2)])
        self.normed = nn.Sequential(
            *(
                self.Block(nn.Sequential(NormAct(16), nn.Conv1d(16, 24, 1), NormAct(24), nn.Conv1d(24, 16, 1)))
                for _ in range(2)
            )
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.attended:
            x = block(x)
        return self.head(self.normed(x.transpose(1, 2)).mean(2))


MODELS = {
    "residual": (Residual, lambda: (torch.randn(2, 3, 8, 8),), {}),
    "dense": (Dense, lambda: (torch.randn(2, 3, 8),), {}),
    "transformer": (Transformer, lambda: (torch.randint(0, 11, (2, 5)),), {"scale": 1.5}),
    "blocks": (Blocks, lambda: (torch.randn(2, 6, 4),), {}),
    "attended": (Attended, lambda: (torch.randn(2, 6, 4),), {}),
    "encoder": (Encoder, lambda: (torch.randn(2, 3, 8),), {}),
    "shuffled": (Shuffled, lambda: (torch.randn(2, 3, 4, 4),), {}),
    "mixer": (Mixer, lambda: (torch.randn(2, 3, 8, 8),), {}),
}


def made(name):
    """A model with random biases and norms in float64, and its inputs."""
    torch.manual_seed(0)
    build, inputs, kwargs = MODELS[name]
    model = build().double()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor += 0.3 * torch.rand_like(tensor)
    args = tuple(x.double() if x.is_floating_point() else x for x in inputs())
    return model, args, kwargs
