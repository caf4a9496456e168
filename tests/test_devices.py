"""A GPU's rate is found by whatever its driver calls it, and nothing is made up for one that is not known."""

from __future__ import annotations

import pytest

from framewright.devices import TENSOR, UTILISATION, WITHOUT_BFLOAT16, rate


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA B200", 2250),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 3090 Ti", 80),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 D", 147),
        ("NVIDIA GeForce RTX 5090", 209),
        ("NVIDIA RTX A6000", 155),
        ("NVIDIA RTX 6000 Ada Generation", 364),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 503),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-32GB", 112),
    ],
)
def test_a_gpu_is_known_by_the_name_that_its_driver_gives(name: str, tflops: float) -> None:
    assert rate(name, "float16") == pytest.approx(tflops * 1e12 * UTILISATION)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "Quadro RTX 5000 with Max-Q Design",
        "NVIDIA A1000",
        "NVIDIA H1000",
        "AMD Instinct MI300X",
        "",
    ],
)
def test_a_slice_a_laptop_and_a_stranger_have_no_rate(name: str) -> None:
    assert rate(name, "bfloat16") is None


def test_an_old_gpu_is_slow_in_floats_that_it_does_not_know() -> None:
    assert rate("Tesla T4", "bfloat16") == pytest.approx(8.1e12 * UTILISATION)
    assert rate("Tesla V100-PCIE-32GB", "bfloat16") == pytest.approx(14e12 * UTILISATION)
    assert rate("NVIDIA A10", "bfloat16") == rate("NVIDIA A10", "float16")
    assert rate("NVIDIA A10", "float32") is None
    assert WITHOUT_BFLOAT16.keys() <= TENSOR.keys()
