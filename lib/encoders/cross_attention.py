"""The cross-attention block of GOAE (Yuan et al., 2023): its encoder's codes and its feature alignment are made of it.

DETR's decoder block without self-attention. Modules carry the names of the released code, so that its state dicts
load strictly.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lib.shapes import checked

__all__ = ["CrossAttention"]

Queries = Float[Tensor, "batch queries dim"]
Keys = Float[Tensor, "batch keys dim"]


class CrossAttention(nn.Module):
    """Queries [B, N, D] ask keys, which are the values too, [B, M, D]: `forward` gives [B, N, D].

    The released block of the paper's eq. 7 and of its encoder's heads: multi-head attention onto the query,
    LayerNorm without parameters, a feed-forward network of `hidden` channels onto that. Nothing normalises the
    sum, and nothing says where a token lies.
    """

    def __init__(self, dim: int, heads: int = 4, hidden: int = 1024, dropout: float = 0.1):
        super().__init__()
        if dim % heads:
            raise ValueError(
                f"expected a dim that the heads share evenly; got dim={dim}, heads={heads}: choose a multiple"
            )
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.dropout = nn.Dropout(dropout)

    @checked
    def forward(self, query: Queries, key_value: Keys) -> Queries:
        found, _ = self.multihead_attn(query, key_value, key_value, need_weights=False)
        asked = self.norm(query + self.dropout(found))
        return asked + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(asked)))))
