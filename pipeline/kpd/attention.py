"""Attention whose projections are layers of their own, so that they can be swapped for block-sparse ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional

from pipeline.errors import InputError
from pipeline.kpd.layer import as_node
from pipeline.kpd.together import side_by_side


class Attention(nn.Module):
    """What a :class:`torch.nn.MultiheadAttention` computes, by four layers that are called.

    torch's own multiplies by the weights of its projections, which no block-sparse layer has.

    Parameters
    ----------
    attention
        The module to take over; weights are copied where it holds three in one matrix, else shared.

    Attributes
    ----------
    q_proj, k_proj, v_proj, out_proj
        Linear layers (E, E), (kdim, E), (vdim, E) and (E, E).
    """

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    _qkv_same_embed_dim = False  # keeps torch.nn.TransformerEncoderLayer from multiplying by the weights itself

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.kdim, self.vdim = attention.embed_dim, attention.kdim, attention.vdim
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        self.add_zero_attn = attention.add_zero_attn
        biases: tuple[Tensor | None, ...] = (None, None, None)
        if attention.in_proj_bias is not None:
            biases = attention.in_proj_bias.detach().chunk(3)
        if attention._qkv_same_embed_dim:
            weights = attention.in_proj_weight.detach().chunk(3)
            is_trained = attention.in_proj_weight.requires_grad
        else:
            weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
            is_trained = attention.q_proj_weight.requires_grad
        names = ("q_proj", "k_proj", "v_proj")
        for name, weight, bias in zip(names, weights, biases, strict=True):
            with torch.device("meta"):
                layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
            layer.weight = nn.Parameter(weight.detach().clone(), is_trained)
            if bias is not None:
                layer.bias = nn.Parameter(bias.clone(), attention.in_proj_bias.requires_grad)
            self.add_module(name, layer)
        self.out_proj: nn.Module = attention.out_proj
        self.bias_k, self.bias_v = attention.bias_k, attention.bias_v
        self.train(attention.training)

    @property
    def in_proj_weight(self) -> Tensor:
        """What :class:`torch.nn.TransformerEncoder` asks for types and devices: the weight for the queries."""
        weight: Tensor = self.q_proj.weight  # type: ignore[assignment]
        return weight

    @property
    def in_proj_bias(self) -> Tensor | None:
        """As :attr:`in_proj_weight`."""
        bias: Tensor | None = self.q_proj.bias  # type: ignore[assignment]
        return bias

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments and results as in :meth:`torch.nn.MultiheadAttention.forward`.

        A nested tensor, which :class:`torch.nn.TransformerEncoder` makes of padded sequences, attends to itself.
        """
        if isinstance(query, Proxy):
            options = (key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
            return as_node(self, query, key, value, *options)
        if is_causal and attn_mask is None:
            raise InputError("is_causal=True: it is a hint about attn_mask, give that too")
        if query.is_nested:
            return self._nested(query), None
        is_batch, is_one = query.dim() == 3, query is key is value
        if not is_batch:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        if is_one:
            key = value = query
        output, weights = self._attend(query, key, value, key_padding_mask, attn_mask, need_weights)
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not is_batch:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _nested(self, x: Tensor) -> Tensor:
        """Self-attention of sequences of different lengths."""
        lengths = [len(part) for part in x.unbind()]
        padded = torch.nested.to_padded_tensor(x, 0.0)
        at = torch.arange(padded.shape[1], device=x.device)
        padding = at >= torch.tensor(lengths, device=x.device)[:, None]
        output, _ = self._attend(padded, padded, padded, padding, None, need_weights=False)
        return torch.nested.as_nested_tensor([row[:length] for row, length in zip(output, lengths, strict=True)])

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding: Tensor | None,
        mask: Tensor | None,
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """(N, L, E), (N, S, kdim), (N, S, vdim) -> (N, L, E) and, if wanted, weights (N, heads, L, S)."""
        layers = self.q_proj, self.k_proj, self.v_proj
        joined = side_by_side(query, layers) if query is key is value else None
        q, k, v = [layer(x) for layer, x in zip(layers, (query, key, value), strict=True)] if joined is None else joined
        added = 0
        if self.bias_k is not None and self.bias_v is not None:  # one more pair of key and value, the same for all
            k = torch.cat([k, self.bias_k.to(k.dtype).expand(k.shape[0], 1, -1)], dim=1)
            v = torch.cat([v, self.bias_v.to(v.dtype).expand(v.shape[0], 1, -1)], dim=1)
            added += 1
        if self.add_zero_attn:
            k, v = functional.pad(k, (0, 0, 0, 1)), functional.pad(v, (0, 0, 0, 1))
            added += 1
        q, k, v = self._by_head(q), self._by_head(k), self._by_head(v)
        bias = self._bias(q, padding, mask, added)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = functional.softmax(scores if bias is None else scores + bias, dim=-1)
            weights = functional.dropout(weights, dropout)
            output = weights @ v
        else:
            output = functional.scaled_dot_product_attention(q, k, v, bias, dropout)
        whole = output.transpose(1, 2).reshape(*query.shape[:2], self.embed_dim)
        projected: Tensor = self.out_proj(whole)
        return projected, weights

    def _by_head(self, x: Tensor) -> Tensor:
        """(N, L, E) -> (N, heads, L, E / heads)."""
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _bias(self, q: Tensor, padding: Tensor | None, mask: Tensor | None, added: int) -> Tensor | None:
        """What is added to the scores, that broadcasts to (N, heads, L, S + added): -inf where none may look."""
        bias = None
        if mask is not None:
            bias = functional.pad(_additive(mask, q.dtype), (0, added))
            if bias.dim() == 3:
                bias = bias.view(q.shape[0], self.num_heads, *bias.shape[1:])
        if padding is not None:
            keys = functional.pad(_additive(padding, q.dtype), (0, added))[:, None, None, :]
            bias = keys if bias is None else bias + keys
        return bias


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to scores: -inf where a Boolean one is true."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
