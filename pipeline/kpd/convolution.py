"""A convolution as a linear map of patches, so that its weight can be made block-sparse."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional

from pipeline.errors import InputError
from pipeline.kpd.layer import WithDerivedWeight, as_node


class PatchConv2d(nn.Module):
    """A :class:`torch.nn.Conv2d` whose weight, (outputs, channels x rows x columns), belongs to a linear layer.

    Patches that do not overlap, as a vision transformer's, are mapped by the layer. Where they do, torch's convolution
    takes the layer's weight while it is trained: laying the patches side by side takes more memory and time than the
    product can save; a sparse form for inference maps them. A plain layer is a plain convolution.

    Parameters
    ----------
    convolution
        Sizes, stride, padding and mode are taken from it.
    linear
        Maps (.., channels x rows x columns) to (.., outputs).
    """

    def __init__(self, convolution: nn.Conv2d, linear: nn.Module) -> None:
        super().__init__()
        self.in_channels, self.out_channels = convolution.in_channels, convolution.out_channels
        self.kernel_size = _pair(convolution.kernel_size)
        self.stride, self.dilation = _pair(convolution.stride), _pair(convolution.dilation)
        self.padding_mode = convolution.padding_mode
        self.padding = tuple(convolution._reversed_padding_repeated_twice)  # as functional.pad has it
        self.linear = linear
        self.train(convolution.training)

    @property
    def overlaps(self) -> bool:
        """Whether a pixel belongs to several patches."""
        return self.dilation != (1, 1) or any(
            size > step for size, step in zip(self.kernel_size, self.stride, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, rows, columns) or one image without N -> the same of outputs."""
        if isinstance(x, Proxy):
            return as_node(self, x)
        if x.dim() == 3:
            y: Tensor = self(x.unsqueeze(0)).squeeze(0)
            return y
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise InputError(f"images of shape {tuple(x.shape)}: the second dimension must be {self.in_channels}")
        x = self.padded(x)
        if not self.maps_patches:
            linear = self.linear
            weight = linear.to_matrix() if isinstance(linear, WithDerivedWeight) else cast("Tensor", linear.weight)
            weight = weight.reshape(self.out_channels, self.in_channels, *self.kernel_size)
            bias: Tensor | None = self.linear.bias  # type: ignore[assignment]
            return functional.conv2d(x, weight, bias, self.stride, 0, self.dilation)
        rows, columns = self.places(x)
        y = self.linear(self.patches(x))
        return y.transpose(1, 2).reshape(x.shape[0], self.out_channels, rows, columns)

    @property
    def maps_patches(self) -> bool:
        """Whether the layer is given patches; else its weight is given to torch's convolution."""
        is_trained = any(True for _ in self.linear.parameters())
        return type(self.linear) is not nn.Linear and not (self.overlaps and is_trained)

    def padded(self, x: Tensor) -> Tensor:
        """Add the margin."""
        if not any(self.padding):
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return functional.pad(x, self.padding, mode=mode)

    def places(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of outputs for a padded x."""
        rows, columns = (
            (side - step * (size - 1) - 1) // stride + 1
            for side, size, stride, step in zip(x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True)
        )
        return rows, columns

    def patches(self, x: Tensor) -> Tensor:
        """Padded (N, channels, rows, columns) -> (N, places, channels x rows x columns of the kernel)."""
        if self.overlaps or self.kernel_size != self.stride:
            return functional.unfold(x, self.kernel_size, self.dilation, 0, self.stride).transpose(1, 2)
        (rows, columns), (height, width) = self.places(x), self.kernel_size
        x = x[:, :, : rows * height, : columns * width]
        x = x.reshape(x.shape[0], self.in_channels, rows, height, columns, width)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(x.shape[0], rows * columns, self.in_channels * height * width)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"


def as_rows(convolution: nn.Conv2d) -> nn.Linear:
    """The linear map of one patch that `convolution` makes, sharing its bias; its weight is a view."""
    weight = convolution.weight
    with torch.device("meta"):
        linear = nn.Linear(weight[0].numel(), len(weight), convolution.bias is not None)
    linear.weight = nn.Parameter(weight.detach().reshape(len(weight), -1), weight.requires_grad)
    linear.register_parameter("bias", convolution._parameters["bias"])
    return linear.train(convolution.training)


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    """The two of (rows, columns)."""
    rows, columns = sizes
    return rows, columns
