"""A made `model` is as redundant as real ones are."""

from __future__ import annotations

from aotcache.protocol.compression import zstd
from bench.models import model_of

SIZE = 8_000_000


def compressed(data: bytes) -> int:
    parameter = zstd.CompressionParameter
    options = {
        parameter.compression_level: 3,
        parameter.window_log: 25,
        parameter.enable_long_distance_matching: 1,
    }
    return len(zstd.compress(data, options=options))


def test_it_has_its_size_and_is_the_same_every_time() -> None:
    assert len(model_of(3, SIZE)) == SIZE
    assert model_of(3, SIZE) == model_of(3, SIZE)


def test_a_second_rank_costs_two_percent_and_is_another() -> None:
    first, second = model_of(0, SIZE), model_of(1, SIZE)
    assert first != second
    alone = compressed(first)
    assert 7 < SIZE / alone < 10
    assert 0.01 < (compressed(first + second) - alone) / alone < 0.03
