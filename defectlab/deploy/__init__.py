"""Networks out of the laboratory: an export that stands alone, its proof, and a runtime without torch."""
