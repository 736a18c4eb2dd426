"""Packed prompts: what lies where, and what they have in common."""

from __future__ import annotations

import torch

from clipfit_cli.models.packing import pack, shared_prefix

TOKENS = torch.tensor([[1, 5, 6, 9, 0, 0], [1, 5, 7, 8, 9, 0], [1, 5, 9, 0, 0, 0]])
LENGTHS = torch.tensor([4, 5, 3])


def test_the_shared_prefix_leaves_each_its_end() -> None:
    assert shared_prefix(TOKENS, LENGTHS) == 2
    assert shared_prefix(TOKENS[:2], LENGTHS[:2]) == 2
    assert shared_prefix(TOKENS[:1], LENGTHS[:1]) == 3
    assert shared_prefix(torch.tensor([[1, 2, 9], [1, 2, 9]]), torch.tensor([3, 3])) == 2
    assert shared_prefix(torch.tensor([[4, 9, 0], [5, 9, 0]]), torch.tensor([2, 2])) == 0
    assert shared_prefix(torch.tensor([[9, 0], [9, 0]]), torch.tensor([1, 1])) == 0


def test_every_token_once() -> None:
    packing = pack(TOKENS, LENGTHS)
    assert packing.prefix == 2 and packing.shortest == 3
    assert packing.tokens.tolist() == [1, 5, 6, 9, 7, 8, 9, 9]
    assert packing.positions.tolist() == [0, 1, 2, 3, 2, 3, 4, 2]
    assert packing.tokens[packing.end_rows].tolist() == [9, 9, 9]
    queries = packing.tokens[packing.query_rows].view(3, 3)
    keys = packing.tokens[packing.key_rows].view(3, 5)
    for index, length in enumerate(LENGTHS.tolist()):
        assert queries[index, : length - 2].tolist() == TOKENS[index, 2:length].tolist()
        assert keys[index, :length].tolist() == TOKENS[index, :length].tolist()
        assert packing.end_mask[index, 0, 0].tolist() == [place < length for place in range(5)]
    assert packing.mask.tolist() == [[True] * 3 + [False] * 2, [True] * 4 + [False], [True] * 5]
    # places and rows are each other's reverse
    assert packing.query_rows[packing.query_slots].tolist() == [2, 3, 4, 5, 6, 7]
    assert packing.key_rows[packing.key_slots].tolist() == [2, 3, 4, 5, 6, 7]


def test_nothing_shared() -> None:
    packing = pack(TOKENS, LENGTHS, share_prefix=False)
    assert packing.prefix == 0 and len(packing.tokens) == 12
    assert packing.tokens.tolist() == [1, 5, 6, 9, 1, 5, 7, 8, 9, 1, 5, 9]
