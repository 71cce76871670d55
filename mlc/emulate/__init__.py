"""What other hardware computes: 8-bit products that are added in 16 bits, and every value rounded to float16."""

from mlc.emulate.saturating import saturating_outputs, saturation_cost
from mlc.emulate.saturation import (
    Product,
    exact_sums,
    integer_products,
    saturating_sums,
    saturation_proof,
    unproven,
)
from mlc.emulate.strict_fp16 import first_loss, rounded_half
from mlc.emulate.widening import computes_half

__all__ = [
    "Product",
    "computes_half",
    "exact_sums",
    "first_loss",
    "integer_products",
    "rounded_half",
    "saturating_outputs",
    "saturating_sums",
    "saturation_cost",
    "saturation_proof",
    "unproven",
]
